//! Training of byte pair merges (Sennrich et al., 2016, "Neural Machine Translation of Rare Words
//! with Subword Units"): join the most frequent pair of neighbours, again and again.
//!
//! Written here because the library's trainer numbers the symbols with an end-of-word mark in the
//! order of a randomly seeded hash map: two runs over the same text give different files. Here
//! every tie has a rule.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};

/// A pair seen less often than this is not worth an entry: it would memorise a single word.
const LEAST: i64 = 2;

type Pair = (u32, u32);

/// A finished vocabulary.
pub(super) struct Merges {
    /// Tokens by id: the given symbols, then the merged ones.
    pub(super) tokens: Vec<String>,
    /// Pairs in the order of merging.
    pub(super) pairs: Vec<Pair>,
}

/// Learns merges until there are `target` tokens or no pair is left that occurs twice.
///
/// `symbols` are the first tokens; `words` gives each distinct word as ids of symbols, with its
/// count. Of equally frequent pairs the one with the smaller ids goes first.
pub(super) fn learn(symbols: Vec<String>, words: Vec<(Vec<u32>, u64)>, target: usize) -> Merges {
    let mut trainer = Trainer::new(words);
    let mut ids: HashMap<String, u32> = symbols.iter().cloned().zip(0..).collect();
    let mut merges = Merges { tokens: symbols, pairs: Vec::new() };
    while merges.tokens.len() < target {
        let Some(pair) = trainer.next_pair() else { break };
        let merged =
            format!("{}{}", merges.tokens[pair.0 as usize], merges.tokens[pair.1 as usize]);
        // Two ways to the same letters ("ab"+"c", "a"+"bc") share one token.
        let id = *ids.entry(merged.clone()).or_insert_with(|| {
            merges.tokens.push(merged);
            (merges.tokens.len() - 1) as u32
        });
        merges.pairs.push(pair);
        trainer.merge(pair, id);
    }
    merges
}

struct Trainer {
    words: Vec<(Vec<u32>, i64)>,
    counts: HashMap<Pair, i64>,
    /// Words that a pair has occurred in; some may have lost it since.
    places: HashMap<Pair, BTreeSet<usize>>,
    /// Candidates with the count they had when they were put in; stale ones are skipped.
    queue: BinaryHeap<(i64, Reverse<Pair>)>,
}

impl Trainer {
    fn new(words: Vec<(Vec<u32>, u64)>) -> Self {
        let words: Vec<_> = words
            .into_iter()
            .map(|(word, n)| (word, i64::try_from(n).unwrap_or(i64::MAX)))
            .collect();
        let mut trainer = Self {
            words,
            counts: HashMap::new(),
            places: HashMap::new(),
            queue: BinaryHeap::new(),
        };
        for index in 0..trainer.words.len() {
            trainer.count(index, 1);
        }
        trainer.queue =
            trainer.counts.iter().map(|(pair, count)| (*count, Reverse(*pair))).collect();
        trainer
    }

    /// Adds the pairs of a word `sign` times its count; tells which pairs.
    fn count(&mut self, index: usize, sign: i64) -> BTreeSet<Pair> {
        let (word, n) = &self.words[index];
        let mut touched = BTreeSet::new();
        for pair in word.windows(2).map(|w| (w[0], w[1])) {
            let count = self.counts.entry(pair).or_default();
            *count = count.saturating_add(n.saturating_mul(sign));
            if sign > 0 {
                self.places.entry(pair).or_default().insert(index);
            }
            touched.insert(pair);
        }
        touched
    }

    fn next_pair(&mut self) -> Option<Pair> {
        while let Some((count, Reverse(pair))) = self.queue.pop() {
            if count < LEAST {
                return None;
            }
            if self.counts.get(&pair) == Some(&count) {
                return Some(pair);
            }
        }
        None
    }

    fn merge(&mut self, pair: Pair, id: u32) {
        let mut changed = BTreeMap::new();
        for index in self.places.remove(&pair).unwrap_or_default() {
            let before = self.count(index, -1);
            join(&mut self.words[index].0, pair, id);
            let after = self.count(index, 1);
            changed.extend(before.into_iter().chain(after).map(|pair| (pair, ())));
        }
        // A merge may make its own pair anew ("a"+"aa" from a run of "a"); its places came back
        // with `count`.
        for pair in changed.into_keys() {
            match self.counts.get(&pair) {
                Some(0) => {
                    self.counts.remove(&pair);
                    self.places.remove(&pair);
                }
                Some(count) => self.queue.push((*count, Reverse(pair))),
                None => {}
            }
        }
    }
}

/// Replaces each occurrence of the pair, from the left.
fn join(word: &mut Vec<u32>, pair: Pair, id: u32) {
    let mut out = Vec::with_capacity(word.len());
    let mut at = 0;
    while at < word.len() {
        if at + 1 < word.len() && (word[at], word[at + 1]) == pair {
            out.push(id);
            at += 2;
        } else {
            out.push(word[at]);
            at += 1;
        }
    }
    *word = out;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(words: &[(&str, u64)], target: usize) -> Merges {
        let symbols: Vec<String> = ('a'..='e').map(String::from).collect();
        let words = words
            .iter()
            .map(|(word, n)| (word.bytes().map(|b| u32::from(b - b'a')).collect(), *n))
            .collect();
        learn(symbols, words, target)
    }

    #[test]
    fn the_most_frequent_pair_goes_first_and_ties_go_to_smaller_ids() {
        let merges = learned(&[("abc", 3), ("bc", 2), ("de", 3), ("ea", 3)], 99);
        // bc 5, then de and ea at 3 (de has the smaller ids), and a+bc at 3, whose first is smallest.
        assert_eq!(merges.tokens[5..], ["bc", "abc", "de", "ea"]);
    }

    #[test]
    fn a_pair_seen_once_is_left_alone() {
        assert!(learned(&[("abcde", 1)], 99).pairs.is_empty());
    }

    #[test]
    fn runs_of_one_letter_are_joined_from_the_left() {
        let merges = learned(&[("aaaaa", 2)], 99);
        // aa aa a: both remaining pairs occur twice, and (aa, a) has the smaller ids.
        assert_eq!(merges.tokens[5..], ["aa", "aaa", "aaaaa"]);
    }

    #[test]
    fn the_target_is_not_passed() {
        assert_eq!(learned(&[("abcde", 9), ("cdeab", 9)], 7).tokens.len(), 7);
    }
}
