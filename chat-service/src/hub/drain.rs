//! Letting all clients go, at an even rate.

use super::*;

/// Requests that are under way when connections are closed get so much longer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

impl Hub {
    /// Tells every client to connect again, then closes them at an even rate.
    pub(super) fn begin_drain(self: &Rc<Self>, tables: &Tables, drain: Drain) {
        if self.draining.replace(true) {
            return;
        }
        // A moment within a turn of one's own: at random, and yet at an even rate.
        let turn =
            drain.spread / u32::try_from(tables.connections.len().max(1)).unwrap_or(u32::MAX);
        for (n, (_, connection)) in (0_u32..).zip(&tables.connections) {
            let moment = turn.mul_f64(f64::from(n) + rand::random::<f64>());
            connection.answer(&ServerFrame::Goaway {
                reconnect_in_ms: u64::try_from(moment.as_millis()).unwrap_or(u64::MAX),
                reason: GoawayReason::Rollout,
            });
            connection.flush();
        }
        actix_rt::spawn(Rc::clone(self).close_all(drain.spread));
    }

    pub(super) async fn close_all(self: Rc<Self>, spread: Duration) {
        tokio::time::sleep(spread).await;
        let connections: Vec<_> = {
            let tables = self.tables.borrow();
            tables
                .connections
                .iter()
                .map(|(_, connection)| Rc::clone(connection))
                .collect()
        };
        self.flush_cursors().await;
        let begun = tokio::time::Instant::now();
        let count = connections.len().max(1) as u32;
        // What is under way is answered first, but not for longer than this, all connections together.
        let deadline = begun + spread + ANSWERS_WITHIN;
        for (n, connection) in (0_u32..).zip(connections) {
            tokio::time::sleep_until(begun + spread * n / count).await;
            while connection.in_flight.get() > 0
                && connection.takes_answers()
                && !connection.is_over()
                && tokio::time::Instant::now() < deadline
            {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.close(&connection, CloseCode::Restart, "the server is restarting");
        }
    }
}
