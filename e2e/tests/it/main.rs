//! The checker against real processes: what keeps its promises is found clean, and what breaks one is caught.
//!
//! [`liar`] stands between clients and a server and breaks a promise on the wire, [`amnesia`] takes data away from a
//! server behind its back.

mod amnesia;
mod liar;
mod programs;
mod standalone;
mod traces;
