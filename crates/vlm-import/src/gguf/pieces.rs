//! SentencePiece's vocabulary, whose pieces have scores, as a list of merges.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::error::{Fault, quoted, unsupported};

/// Signs of the longest piece: runs of spaces or letters have 48 at most.
const MAX_SIGNS: usize = 256;
/// Ways to make a piece, on average; Llama 2 and Gemma have two.
const MAX_WAYS: usize = 16;

/// Every way to put a piece together from two others, best piece first; among ways that are as
/// good, a longer left part first, as transformers' converter has them.
pub(super) fn merges(tokens: &[String], scores: &[f64]) -> Result<Vec<(String, String)>, Fault> {
    let ids: HashMap<&str, usize> =
        tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
    let mut found = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        let signs = token.chars().count();
        if signs > MAX_SIGNS {
            return unsupported(format!(
                "token {} has {signs} signs, over {MAX_SIGNS}",
                quoted(token)
            ));
        }
        let first = found.len();
        for (left_signs, (at, _)) in token.char_indices().enumerate().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(left), Some(right)) = (ids.get(left), ids.get(right)) {
                found.push((id, left_signs, signs - left_signs, *left, *right));
            }
        }
        if found.len() > MAX_WAYS * tokens.len() + 1024 {
            return unsupported(format!(
                "its tokens are made of each other in more than {MAX_WAYS} ways each"
            ));
        }
        found[first..].sort_by_key(|(.., left, right)| (*left, *right));
    }
    found.sort_by(|a, b| {
        let score = |id: usize| scores.get(id).copied().unwrap_or(0.0);
        let lengths = |way: &(usize, usize, usize, usize, usize)| Reverse((way.1, way.2));
        score(b.0).total_cmp(&score(a.0)).then(lengths(a).cmp(&lengths(b)))
    });
    let text = |id: usize| tokens[id].clone();
    Ok(found.into_iter().map(|(.., left, right)| (text(left), text(right))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_pieces_and_longer_left_parts_come_first() {
        let tokens = ["a", "b", "ab", "aab", "aa", "ba"].map(str::to_owned);
        let merges = merges(&tokens, &[-9.0, -9.0, -1.0, -2.0, -2.0, -3.0]).unwrap();
        let pairs: Vec<(&str, &str)> = merges.iter().map(|(a, b)| (&a[..], &b[..])).collect();
        assert_eq!(pairs, [("a", "b"), ("aa", "b"), ("a", "ab"), ("a", "a"), ("b", "a")]);
    }

    #[test]
    fn endless_pieces_are_refused() {
        let tokens = ["a".repeat(257)];
        assert!(merges(&tokens, &[0.0]).is_err());
    }
}
