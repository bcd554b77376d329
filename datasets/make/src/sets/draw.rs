//! Chance that is the same on every machine and in every version.

use sha2::{Digest, Sha256};

/// A number that depends on `salt` and `text` only, even over all of them.
pub fn number(salt: &str, text: &str) -> u64 {
    let hash = Sha256::digest(format!("{salt}:{text}"));
    hash.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Texts in an order drawn with `salt`.
pub fn shuffled<'a>(salt: &str, texts: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut texts: Vec<&str> = texts.into_iter().collect();
    texts.sort_by_key(|text| (number(salt, text), *text));
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_draw_is_fixed() {
        let texts = ["a", "b", "c", "d", "e"];
        let drawn = shuffled("1", texts);
        assert_eq!(drawn, shuffled("1", texts.into_iter().rev()));
        assert_ne!(drawn, shuffled("2", texts));
        // The first bytes of sha256("1:a").
        assert_eq!(number("1", "a") >> 56, 0x41);
    }
}
