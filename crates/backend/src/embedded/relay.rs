//! The relay of one process: calls everybody who is attached.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};

use protocol::Event;

use crate::Relay;
use crate::relay::{Signal, Sink};

#[derive(Default)]
pub(crate) struct InProcess {
    sinks: RwLock<Vec<Arc<dyn Sink>>>,
}

impl InProcess {
    /// A sink with a defect must not end the thread that calls, which is the writer.
    fn each(&self, call: impl Fn(&dyn Sink)) {
        let sinks = self.sinks.read().unwrap_or_else(PoisonError::into_inner);
        for sink in sinks.iter() {
            if catch_unwind(AssertUnwindSafe(|| call(sink.as_ref()))).is_err() {
                tracing::error!("a defect in a sink of the relay");
            }
        }
    }
}

impl Relay for InProcess {
    fn attach(&self, sink: Arc<dyn Sink>) {
        self.sinks
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(sink);
    }

    fn events(&self, events: &[Arc<Event>]) {
        self.each(|sink| sink.events(events));
    }

    fn signal(&self, signal: Signal) {
        self.each(|sink| sink.signal(&signal));
    }
}
