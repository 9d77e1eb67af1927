//! Opaque cursors: the place where a page continues, in a form that clients hand back unread.
//!
//! A cursor carries a check sum, so that one that was cut or edited is refused and not silently another place. It is
//! no secret and gives no right: every page is authorised anew.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Refusal;

/// Long enough for every cursor of ours; anything longer is not read at all.
const CHARS_MAX: usize = 1024;

/// Writes a place.
#[must_use]
pub fn encode<T: Serialize>(place: &T) -> String {
    let mut bytes =
        serde_json::to_vec(place).expect("a place has string keys and no failing parts");
    let sum = checksum(&bytes);
    bytes.extend_from_slice(&sum);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads a place.
///
/// # Errors
/// Names the field `cursor`, when this is not what [`encode`] wrote for the same kind of place.
pub fn decode<T: DeserializeOwned>(cursor: &str) -> Result<T, Refusal> {
    read(cursor).ok_or_else(|| {
        Refusal::field(
            "cursor",
            "is none that this server gave out for this request; start again without one",
        )
    })
}

fn read<T: DeserializeOwned>(cursor: &str) -> Option<T> {
    if cursor.len() > CHARS_MAX {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
    let (place, sum) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    if checksum(place) != sum {
        return None;
    }
    serde_json::from_slice(place).ok()
}

/// FNV-1a, 32 bits.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    let mut hash = 0x811c_9dc5_u32;
    for byte in bytes {
        hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    }
    hash.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_and_an_edited_one_is_refused() {
        let cursor = encode(&("general", 42));
        assert_eq!(
            decode::<(String, u64)>(&cursor).unwrap(),
            ("general".to_owned(), 42)
        );
        for at in 0..cursor.len() {
            let mut edited = cursor.clone().into_bytes();
            edited[at] = if edited[at] == b'A' { b'B' } else { b'A' };
            let edited = String::from_utf8(edited).unwrap();
            let refusal = decode::<(String, u64)>(&edited).unwrap_err();
            assert_eq!(refusal.errors[0].field, "cursor");
        }
        for bad in ["", "A", "====", "ä", &cursor[1..], &"A".repeat(5000)] {
            assert!(decode::<(String, u64)>(bad).is_err(), "{bad}");
        }
        assert!(decode::<u64>(&cursor).is_err(), "of another kind");
    }
}
