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
        let spread_ms = u64::try_from(drain.spread.as_millis()).unwrap_or(u64::MAX);
        for (_, connection) in &tables.connections {
            connection.answer(&ServerFrame::Goaway {
                reconnect_in_ms: rand::random_range(0..=spread_ms),
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
