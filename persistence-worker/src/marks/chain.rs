//! The chain of a room's stored events, as far as one process has seen it.

use std::collections::BTreeMap;

use protocol::Seq;

/// Events that are remembered beyond a hole. Of more, MongoDB knows.
const BEYOND_MAX: usize = 1000;

/// Where the unbroken chain ends, and what is known beyond.
#[derive(Debug)]
pub struct Chain {
    end: Seq,
    /// From `prev` to `seq`.
    beyond: BTreeMap<Seq, Seq>,
    /// More is beyond than is remembered.
    is_cut: bool,
}

impl Chain {
    /// Everything up to `end` is stored.
    pub fn new(end: Seq) -> Self {
        Self {
            end,
            beyond: BTreeMap::new(),
            is_cut: false,
        }
    }

    pub fn end(&self) -> Seq {
        self.end
    }

    /// Whether something is stored beyond the end.
    pub fn has_hole(&self) -> bool {
        self.is_cut || !self.beyond.is_empty()
    }

    /// An event is stored.
    pub fn add(&mut self, prev: Option<Seq>, seq: Seq) {
        match prev {
            // A fence closes everything before it.
            None => self.advance(seq),
            Some(prev) if prev == self.end => self.advance(seq),
            Some(prev) if prev > self.end => {
                if self.beyond.len() < BEYOND_MAX {
                    self.beyond.insert(prev, seq);
                } else {
                    self.is_cut = true;
                }
            }
            Some(_) => {}
        }
    }

    /// MongoDB says that everything up to `end` is stored, and that this is how far it goes.
    pub fn go_to(&mut self, end: Seq) {
        self.is_cut = false;
        self.advance(end);
    }

    fn advance(&mut self, end: Seq) {
        if end <= self.end {
            return;
        }
        self.end = end;
        self.beyond = self.beyond.split_off(&end);
        while let Some(next) = self.beyond.remove(&self.end) {
            self.end = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seq(number: u64) -> Seq {
        Seq::new(number).unwrap()
    }

    fn add(chain: &mut Chain, seqs: &[u64]) -> u64 {
        for number in seqs {
            chain.add(Some(seq(number - 1)), seq(*number));
        }
        chain.end().get()
    }

    #[test]
    fn it_ends_before_the_first_hole() {
        let mut chain = Chain::new(seq(3));
        assert_eq!(add(&mut chain, &[4, 5]), 5);
        assert_eq!(add(&mut chain, &[8, 7]), 5);
        assert!(chain.has_hole());
        assert_eq!(add(&mut chain, &[6]), 8);
        assert!(!chain.has_hole());
        assert_eq!(add(&mut chain, &[2, 8]), 8, "what is behind is known");
        assert!(!chain.has_hole());
    }

    #[test]
    fn a_fence_closes_what_is_before_it() {
        let mut chain = Chain::new(seq(3));
        add(&mut chain, &[6, 7, 101]);
        chain.add(None, seq(100));
        assert_eq!(chain.end(), seq(101));
        chain.add(None, seq(50));
        assert_eq!(chain.end(), seq(101));
        assert!(!chain.has_hole());
    }

    #[test]
    fn what_is_not_remembered_is_asked_for() {
        let mut chain = Chain::new(seq(0));
        let many: Vec<u64> = (2..2 + BEYOND_MAX as u64 + 10).collect();
        assert_eq!(add(&mut chain, &many), 0);
        let end = add(&mut chain, &[1]);
        assert_eq!(end, BEYOND_MAX as u64 + 1);
        assert!(chain.has_hole(), "some were not kept");
        chain.go_to(seq(*many.last().unwrap()));
        assert!(!chain.has_hole());
    }
}
