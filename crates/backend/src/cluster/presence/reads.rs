//! Questions who is in a room. When thousands come back at once, many ask about the same room: those who wait get one
//! answer together.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::RoomId;
use tokio::sync::{Notify, oneshot};

use super::WAIT_MAX;
use super::calls::Calls;
use crate::presence::Present;

/// Rooms per call.
const BATCH: usize = 64;

type Question = (RoomId, usize);

#[derive(Default)]
pub struct Reads {
    waiting: Mutex<HashMap<Question, Vec<oneshot::Sender<Present>>>>,
    asked: Notify,
}

impl Reads {
    /// Who is in the room at some moment after the call; nobody when that cannot be found out.
    pub async fn present(&self, room: &RoomId, most: usize) -> Present {
        let (sender, receiver) = oneshot::channel();
        let question = (room.clone(), most);
        self.waiting().entry(question).or_default().push(sender);
        self.asked.notify_one();
        match tokio::time::timeout(WAIT_MAX, receiver).await {
            Ok(Ok(present)) => present,
            Ok(Err(_)) | Err(_) => Present::default(),
        }
    }

    /// Answers. Never ends by itself.
    pub async fn run(&self, calls: &Calls) {
        loop {
            self.asked.notified().await;
            loop {
                let asked = self.take();
                if asked.is_empty() {
                    break;
                }
                answer(calls, asked).await;
            }
        }
    }

    fn take(&self) -> Vec<(Question, Vec<oneshot::Sender<Present>>)> {
        let mut waiting = self.waiting();
        let some: Vec<_> = waiting.keys().take(BATCH).cloned().collect();
        let some = some.into_iter().filter_map(|q| waiting.remove_entry(&q));
        some.collect()
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Question, Vec<oneshot::Sender<Present>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answer(calls: &Calls, asked: Vec<(Question, Vec<oneshot::Sender<Present>>)>) {
    let (questions, askers): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
    let answers = match calls.present(&questions).await {
        Ok(answers) => answers,
        Err(error) => {
            tracing::debug!(%error, "presence is not known");
            Vec::new()
        }
    };
    // Whoever gets no answer learns it by the end of the channel.
    for (present, askers) in answers.into_iter().zip(askers) {
        for asker in askers {
            let _ = asker.send(present.clone());
        }
    }
}
