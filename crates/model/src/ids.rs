//! When an id that Redis does not know may be taken for new because of its time, without asking MongoDB.
//!
//! The rest of the model has no clocks: it asks whenever Redis could have forgotten. This is why a few numbers are enough
//! for that in the real thing, whatever the clocks of clients say.

/// Numbers of the rule, in minutes.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Redis knows an id this long, and until it is stored.
    pub remember: i32,
    /// Older ids are asked for.
    pub old: i32,
    /// Ids from further ahead are asked for.
    pub ahead: i32,
    /// Ids from further ahead are refused.
    pub refused: i32,
    /// Ids from before a fence and this much are asked for.
    pub fence: i32,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            remember: 20,
            old: 15,
            ahead: 1,
            refused: 4,
            fence: 6,
        }
    }
}

impl Rule {
    /// Whether an id of which Redis knows nothing is looked up. Times are of the clock of this Redis.
    #[must_use]
    pub const fn asks(self, made: i32, now: i32, fence_at: Option<i32>) -> bool {
        let is_of_before = match fence_at {
            Some(at) => made < at + self.fence,
            None => false,
        };
        made < now - self.old || made > now + self.ahead || is_of_before
    }

    /// An id that is stored and would be taken for new: how far its client was ahead, when Redis was lost if it was, and
    /// when the client sent again, in minutes after the first time. Clocks of Redises differ by up to `skew`.
    #[must_use]
    pub fn mistake(self, skew: i32) -> Option<(i32, Option<i32>, i32)> {
        let far = self.remember + self.old + self.ahead;
        let ids = -far..=self.refused.min(far);
        ids.flat_map(|made| (0..=2 * far).map(move |again| (made, again)))
            .find_map(|(made, again)| {
                let is_forgotten = again >= self.remember && !self.asks(made, again, None);
                if is_forgotten {
                    return Some((made, None, again));
                }
                let lost = (0..=again).find(|lost| {
                    let differs = |by| !self.asks(made, again + by, Some(lost + by));
                    (-skew..=skew).any(differs)
                })?;
                Some((made, Some(lost), again))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::Rule;

    const FOR_EVER: i32 = i32::MAX / 2;

    #[test]
    fn no_stored_id_is_taken_for_new() {
        assert_eq!(Rule::default().mistake(1), None);
    }

    #[test]
    fn an_id_from_far_ahead_would_be_taken_for_new_once_redis_forgot_it() {
        let rule = Rule {
            refused: FOR_EVER,
            fence: FOR_EVER,
            ..Rule::default()
        };
        assert_eq!(rule.mistake(0), Some((5, None, 20)));
    }

    #[test]
    fn an_id_from_ahead_would_be_taken_for_new_after_a_fence_that_counts_one_minute() {
        let rule = Rule {
            fence: 1,
            ..Rule::default()
        };
        assert_eq!(rule.mistake(0), Some((1, Some(0), 0)));
    }

    #[test]
    fn redises_with_other_clocks_need_a_margin() {
        let rule = Rule {
            fence: 5,
            ..Rule::default()
        };
        assert_eq!(rule.mistake(0), None);
        assert_eq!(rule.mistake(1), Some((4, Some(0), 4)));
    }
}
