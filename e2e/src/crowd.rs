//! Many clients that only stay connected: whether all of them came back, how long they were away, and how evenly servers
//! that leave let them go.

use std::fmt::Write as _;

use serde::Serialize;

use crate::history::{History, Leave, Micros, Why};
use crate::judge::{Column, Verdict, judge};
use crate::workload::Plan;

/// Of a server that leaves in order.
const RESTART: u16 = 1012;
/// Connections in a room.
const MEMBERS: usize = 100;

/// What came of a crowd.
#[derive(Debug, Serialize)]
pub struct Crowd {
    pub is_clean: bool,
    pub clients: usize,
    /// A row for everything that was told to have happened.
    pub events: Vec<Row>,
    /// Whoever was not there in the end.
    pub away: usize,
    /// More than were allowed to leave within a second did.
    pub too_fast: bool,
    /// Of what was written in the rooms of the crowd.
    pub verdict: Verdict,
}

/// What the crowd saw of something, until the next.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Row {
    pub name: String,
    /// Went to another connection when they were asked to.
    pub moved: usize,
    /// Closed by a server that left.
    pub closed: usize,
    /// Of those that moved, whoever lost the old connection before there was another.
    pub moved_late: usize,
    /// All other connections that were lost.
    pub broken: usize,
    /// The most of the first two within a second.
    pub most_per_sec: usize,
    /// The longest time that one had no connection it could read from.
    pub longest_away_ms: u64,
}

impl Crowd {
    /// Clients for beside a plan: many, with little to read, so that they weigh by their number.
    #[must_use]
    pub fn plan(beside: &Plan, clients: usize) -> Plan {
        Plan {
            name: format!("{}-c", beside.name),
            rooms: clients.div_ceil(MEMBERS),
            senders: 2,
            per_sec: 2.0,
            readers: 0,
            pagers: 0,
            libraries: 0,
            crowd: clients,
            ..beside.clone()
        }
    }

    /// What came of it.
    #[must_use]
    pub fn judged(history: &History, plan: &Plan, per_sec_max: Option<usize>) -> Self {
        let verdict = judge(history);
        let events = rows(history);
        let away = history.leaves.iter().filter(|leave| leave.back.is_none());
        let away = away.count();
        let all: Vec<&Leave> = history.leaves.iter().collect();
        let too_fast = per_sec_max.is_some_and(|max| most_per_sec(&all) > max);
        Self {
            is_clean: verdict.is_clean() && away == 0 && !too_fast,
            clients: plan.crowd,
            events,
            away,
            too_fast,
            verdict,
        }
    }

    /// What happened, as a table in Markdown, and what came of all of it.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "| event, {} connected clients | moved | closed | broken off | most moved or closed in a second | longest away s |\n| --- | --: | --: | --: | --: | --: |\n",
            self.clients
        );
        for row in &self.events {
            writeln!(
                text,
                "| {} | {} | {} | {} | {} | {:.1} |",
                row.name,
                row.moved,
                row.closed,
                row.broken,
                row.most_per_sec,
                row.longest_away_ms as f64 / 1000.0
            )
            .expect("writing to memory does not fail");
        }
        let (messages, column) = (&self.verdict.messages, |of| self.verdict.column(of));
        writeln!(
            text,
            "\n{} clients: {} not there in the end{}; {} acked, {} shown, {} lost, {} doubled, {} disordered, {} holes, {} other",
            self.clients,
            self.away,
            if self.too_fast {
                ", MORE LEFT WITHIN A SECOND THAN MAY"
            } else {
                ""
            },
            messages.acked,
            messages.shown,
            column(Column::Lost),
            column(Column::Doubled),
            column(Column::Disordered),
            column(Column::Holes),
            column(Column::Other),
        )
        .expect("writing to memory does not fail");
        for violation in self.verdict.violations.iter().take(20) {
            writeln!(text, "{violation}").expect("writing to memory does not fail");
        }
        text
    }
}

fn rows(history: &History) -> Vec<Row> {
    let ends = history.faults.iter().skip(1).map(|next| next.at);
    let ends = ends.chain([Micros::MAX]);
    let row = |(told, end): (&crate::history::Injection, Micros)| {
        let of_it = |leave: &&Leave| (told.at..end).contains(&leave.at);
        let leaves: Vec<&Leave> = history.leaves.iter().filter(of_it).collect();
        let count = |is: &dyn Fn(Why) -> bool| leaves.iter().filter(|leave| is(leave.why)).count();
        let moved = count(&|why| why == Why::Asked);
        let closed = count(&|why| why == Why::Closed(RESTART));
        let longest = leaves
            .iter()
            .filter_map(|leave| away_for(leave, history.sending.1))
            .max();
        Row {
            name: told.fault.clone(),
            moved,
            closed,
            moved_late: leaves
                .iter()
                .filter(|leave| leave.why == Why::Asked && leave.without.is_some())
                .count(),
            broken: leaves.len() - moved - closed,
            most_per_sec: most_per_sec(&leaves),
            longest_away_ms: longest.unwrap_or(0) / 1000,
        }
    };
    history.faults.iter().zip(ends).map(row).collect()
}

/// How long there was no connection.
fn away_for(leave: &Leave, end: Micros) -> Option<Micros> {
    let back = leave.back.unwrap_or(end);
    Some(back.saturating_sub(leave.without?))
}

/// The most that were let go by servers that leave within any second. Sorted by time.
fn most_per_sec(leaves: &[&Leave]) -> usize {
    let in_order = |leave: &&&Leave| matches!(leave.why, Why::Asked | Why::Closed(RESTART));
    let times: Vec<Micros> = leaves
        .iter()
        .filter(in_order)
        .map(|leave| leave.at)
        .collect();
    let within =
        |(n, at): (usize, &Micros)| times.partition_point(|time| time < &(at + 1_000_000)) - n;
    times.iter().enumerate().map(within).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Injection;

    const SECOND: Micros = 1_000_000;

    fn leave(at: Micros, why: Why, back: Micros) -> Leave {
        Leave {
            at,
            why,
            without: (why != Why::Asked).then_some(at),
            back: Some(back),
        }
    }

    fn history() -> History {
        let told = |fault: &str, at| Injection {
            fault: fault.into(),
            run: 0,
            what: String::new(),
            at,
            healed: at,
        };
        History {
            faults: vec![told("roll", SECOND), told("crash", 10 * SECOND)],
            leaves: vec![
                leave(2 * SECOND, Why::Asked, 9 * SECOND),
                leave(2 * SECOND + 999_999, Why::Closed(RESTART), 4 * SECOND),
                leave(3 * SECOND, Why::Closed(RESTART), 3 * SECOND + 1000),
                leave(11 * SECOND, Why::Broken, 13 * SECOND),
                leave(11 * SECOND, Why::Closed(1011), 11 * SECOND),
            ],
            ..History::default()
        }
    }

    #[test]
    fn leaves_belong_to_what_happened_last() {
        let rows = rows(&history());
        let roll = Row {
            name: "roll".into(),
            moved: 1,
            closed: 2,
            moved_late: 0,
            broken: 0,
            // A second is over when it is over.
            most_per_sec: 2,
            longest_away_ms: 1000,
        };
        let crash = Row {
            name: "crash".into(),
            broken: 2,
            longest_away_ms: 2000,
            ..Row::default()
        };
        assert_eq!(rows, [roll, crash]);
    }

    #[test]
    fn who_loses_the_old_connection_before_there_is_another_was_away() {
        let mut history = history();
        history.leaves[0].without = Some(3 * SECOND);
        let row = &rows(&history)[0];
        assert_eq!((row.moved_late, row.longest_away_ms), (1, 6000));
    }

    #[test]
    fn who_does_not_come_back_and_who_is_let_go_too_fast_is_a_broken_promise() {
        let plan = Crowd::plan(&Plan::new(1, "test"), 1000);
        assert_eq!(plan.rooms, 10);
        let mut history = history();
        let crowd = Crowd::judged(&history, &plan, Some(2));
        assert!(crowd.is_clean, "{crowd:?}");
        assert!(Crowd::judged(&history, &plan, Some(1)).too_fast);
        history.leaves[3].back = None;
        let crowd = Crowd::judged(&history, &plan, None);
        assert!(!crowd.is_clean && crowd.away == 1, "{crowd:?}");
        assert!(crowd.markdown().contains("1 not there in the end"));
    }
}
