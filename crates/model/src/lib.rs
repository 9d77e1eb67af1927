//! The log of the cluster family as a model that is explored state by state.
//!
//! One room, one or two pods, a few messages, and everything that may go wrong a bounded number of times. It checks that
//! the protocol keeps the promises P1 to P4, and that every part of it is needed. It says nothing about progress, time
//! or the code itself.

mod action;
mod config;
pub mod ids;
mod properties;
mod state;
mod step;

pub use action::{Action, PodIndex, Task};
pub use config::{Config, Faults, Safeguards, Servers};
pub use properties::{
    ACKED_IS_KEPT, NOTHING_IS_PARKED, ONE_ORDER, PROMISES, SEEN_IS_DURABLE, SEND_AGAIN,
};
pub use state::{Event, State};
use stateright::{Model, Property};

/// The log of one room.
#[derive(Clone, Debug)]
pub struct Log {
    pub config: Config,
}

impl Model for Log {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(&self.config)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        step::actions(&self.config, state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = step::take(&self.config, state, action)?;
        if self.config.symmetry {
            next.sort_pods();
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
