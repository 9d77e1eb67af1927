//! `persistence-worker`: the process.

fn main() {}
