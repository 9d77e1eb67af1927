//! From a text to the words that are indexed and looked for.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Letters of one token; what is longer is cut, in texts and queries alike.
pub const TOKEN_LETTERS_MAX: usize = 32;

/// Tokens of one text. More than the largest message can hold, so nothing is lost of one.
pub const TOKENS_MAX: usize = 12_000;

/// The words of a text, in its order: lower case, without accents, split at whatever is neither letter nor digit.
///
/// Scripts that put no space between words (Han, kana, Thai, Lao, Khmer, Burmese) give every letter and every pair of
/// neighbours: looking for two letters or more then finds just the texts that have them side by side, pair by pair.
#[must_use]
pub fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Tokens::default();
    if text.is_ascii() {
        for byte in text.bytes() {
            tokens.push(char::from(byte.to_ascii_lowercase()));
        }
    } else {
        let plain = text
            .nfkd()
            .flat_map(char::to_lowercase)
            .filter(|&c| !is_accent(c))
            .nfc();
        for c in plain {
            match unfold(c) {
                Some(letters) => letters.chars().for_each(|c| tokens.push(c)),
                None => tokens.push(c),
            }
        }
    }
    tokens.end_word();
    tokens.found
}

/// Whether a letter belongs to a script without spaces between words.
#[must_use]
pub fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{0E00}'..='\u{0EFF}'
        | '\u{1000}'..='\u{109F}'
        | '\u{1780}'..='\u{17FF}'
        | '\u{3005}'..='\u{3007}'
        | '\u{3040}'..='\u{30FF}'
        | '\u{31F0}'..='\u{31FF}'
        | '\u{3400}'..='\u{4DBF}'
        | '\u{4E00}'..='\u{9FFF}'
        | '\u{F900}'..='\u{FAFF}'
        | '\u{20000}'..='\u{323AF}')
}

#[derive(Default)]
struct Tokens {
    found: Vec<String>,
    word: String,
    letters: usize,
    /// The unspaced letter just before this one.
    before: Option<char>,
}

impl Tokens {
    fn push(&mut self, c: char) {
        let is_letter = c.is_alphanumeric();
        let goes_on = is_combining_mark(c) && (self.letters > 0 || self.before.is_some());
        if !is_letter && !goes_on {
            self.end_word();
            self.before = None;
        } else if is_unspaced(c) {
            self.end_word();
            if let Some(before) = self.before {
                self.keep([before, c].iter().collect());
            }
            self.keep(c.into());
            self.before = Some(c);
        } else {
            self.before = None;
            if self.letters < TOKEN_LETTERS_MAX {
                self.word.push(c);
            }
            self.letters += 1;
        }
    }

    fn end_word(&mut self) {
        if self.letters > 0 {
            let word = std::mem::take(&mut self.word);
            self.keep(word);
            self.letters = 0;
        }
    }

    fn keep(&mut self, token: String) {
        if self.found.len() < TOKENS_MAX {
            self.found.push(token);
        }
    }
}

/// Marks that people leave out when they type. Marks of other scripts change the word and stay.
fn is_accent(c: char) -> bool {
    matches!(c,
        '\u{0300}'..='\u{036F}'
        | '\u{0591}'..='\u{05C7}'
        | '\u{0610}'..='\u{061A}'
        | '\u{064B}'..='\u{065F}'
        | '\u{0670}'
        | '\u{1AB0}'..='\u{1AFF}'
        | '\u{1DC0}'..='\u{1DFF}'
        | '\u{20D0}'..='\u{20FF}'
        | '\u{FE20}'..='\u{FE2F}')
}

/// Letters that are one to Unicode and a plain letter with a stroke, or two, to people.
fn unfold(c: char) -> Option<&'static str> {
    Some(match c {
        'ß' => "ss",
        'æ' => "ae",
        'œ' => "oe",
        'ø' => "o",
        'ł' => "l",
        'đ' | 'ð' => "d",
        'þ' => "th",
        'ħ' => "h",
        'ı' => "i",
        'ς' => "σ",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_lower_case_and_without_accents() {
        assert_eq!(
            tokens("Crème BRÛLÉE, Straße; Łódź — ＦＵＬＬ İstanbul"),
            ["creme", "brulee", "strasse", "lodz", "full", "istanbul"]
        );
        assert_eq!(tokens("cafe\u{301}"), tokens("café"));
        assert_eq!(tokens("ΟΔΟΣ"), tokens("οδος"));
    }

    #[test]
    fn words_end_at_signs() {
        assert_eq!(
            tokens(r#"don't a_b AND "x*" NEAR(y)"#),
            ["don", "t", "a", "b", "and", "x", "near", "y"]
        );
        assert!(tokens("… 👍 !").is_empty());
        assert!(tokens("").is_empty());
    }

    #[test]
    fn unspaced_scripts_give_letters_and_pairs() {
        assert_eq!(tokens("東京都"), ["東", "東京", "京", "京都", "都"]);
        assert_eq!(tokens("abc日x"), ["abc", "日", "x"]);
        assert_eq!(tokens("日、本"), ["日", "本"]);
        assert_eq!(tokens("がぎ"), ["が", "がぎ", "ぎ"]);
        assert_eq!(tokens("한국어 hi"), ["한국어", "hi"]);
    }

    #[test]
    fn tokens_are_bounded() {
        assert_eq!(tokens(&"x".repeat(100)), ["x".repeat(TOKEN_LETTERS_MAX)]);
        assert_eq!(tokens(&"x ".repeat(20_000)).len(), TOKENS_MAX);
    }

    #[test]
    fn tokens_of_tokens_are_the_same() {
        for text in ["Crème brûlée", "हिन्दी में", "東京都へ", "naïve ＡＢＣ１２３"]
        {
            for token in tokens(text) {
                let again = tokens(&token);
                assert!(again.contains(&token), "{token:?} became {again:?}");
            }
        }
    }
}
