//! Texts made of words, the same every time: few words are frequent, most are rare, as in speech.

/// Different words there are.
pub const VOCABULARY: u32 = 5_000;

pub struct Generator(u64);

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        // Xorshift; the high bits are the good ones.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit.max(1)
    }

    /// Appends about `count` words.
    pub fn put_text(&mut self, out: &mut Vec<u8>, count: u64) {
        for place in 0..count / 2 + self.below(count) {
            if place > 0 {
                out.push(b' ');
            }
            let widest = self.below(u64::from(VOCABULARY)) + 1;
            out.extend(word(self.below(widest) as u32).into_bytes());
        }
        if out.last() == Some(&b'"') {
            out.extend(b"hello");
        }
    }
}

/// The word with this number.
pub fn word(mut number: u32) -> String {
    const SYLLABLES: [&str; 20] = [
        "ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu", "na", "pe", "ri", "so", "tu",
        "va", "we", "xi", "yo", "zu",
    ];
    let mut word = String::new();
    for _ in 0..3 {
        word.push_str(SYLLABLES[number as usize % SYLLABLES.len()]);
        number /= SYLLABLES.len() as u32;
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_another_word() {
        let words: std::collections::HashSet<_> = (0..VOCABULARY).map(word).collect();
        assert_eq!(words.len(), VOCABULARY as usize);
    }

    #[test]
    fn a_text_is_the_same_every_time_and_never_empty() {
        for seed in 0..200 {
            let texts: Vec<Vec<u8>> = (0..2)
                .map(|_| {
                    let mut text = b"\"".to_vec();
                    Generator::new(seed).put_text(&mut text, 2);
                    text
                })
                .collect();
            assert!(texts[0].len() > 1);
            assert_eq!(texts[0], texts[1]);
        }
    }
}
