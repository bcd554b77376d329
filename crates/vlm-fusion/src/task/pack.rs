//! Conversations as rows of tokens, of which some are learned.

use burn::tensor::{Device, Tensor};

use crate::masks::{Sight, Token, padding};

/// The tokens of a conversation, and which of them are learned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lesson {
    /// The tokens, those of pictures included.
    pub ids: Vec<i64>,
    /// Whether each is learned: the answers, with the token that ends each.
    pub learned: Vec<bool>,
}

impl Lesson {
    /// Adds a piece.
    pub(super) fn push(&mut self, ids: &[i64], learned: bool) {
        self.ids.extend(ids);
        self.learned.resize(self.ids.len(), learned);
    }

    /// Tokens before the first that is learned.
    fn asked(&self) -> usize {
        self.learned.iter().position(|learned| *learned).unwrap_or(self.ids.len())
    }
}

/// Conversations with the same beginning (a picture, as a rule) behind each other in one row. Each
/// sees the beginning and itself, at the positions that it would have alone, so that it learns what
/// it would learn alone, while the picture is looked at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Tokens.
    pub ids: Vec<i64>,
    /// The position of each.
    pub positions: Vec<usize>,
    /// Which conversation each belongs to, from 1; 0 is the beginning that all share.
    pub part: Vec<u32>,
    /// Where a token is foretold, and which.
    pub answers: Vec<(usize, i64)>,
    /// Tokens of the beginning.
    pub shared: usize,
}

impl Row {
    /// Packs conversations; one alone is a row by itself.
    ///
    /// Equal questions with different answers keep the last token of the question each, since it
    /// foretells the answer.
    pub fn pack(lessons: &[Lesson]) -> Self {
        let Some(first) = lessons.first() else { return Row::default() };
        let alike =
            |lesson: &Lesson| lesson.ids.iter().zip(&first.ids).take_while(|(a, b)| a == b).count();
        let shared = match lessons {
            [_] => first.ids.len(),
            _ => {
                let most = lessons.iter().map(|lesson| alike(lesson).min(lesson.asked()));
                most.min().unwrap_or(0)
            }
        };
        // The token before a learned one has to be in the conversation's own part.
        let tight = lessons.len() > 1 && lessons.iter().any(|lesson| lesson.asked() == shared);
        let shared = if tight { shared.saturating_sub(1) } else { shared };
        let mut row = Row { shared, ..Row::default() };
        row.ids.extend(&first.ids[..shared]);
        row.positions.extend(0..shared);
        row.part.resize(shared, 0);
        for (number, lesson) in lessons.iter().enumerate() {
            let start = row.ids.len();
            let place = |i: usize| if i < shared { i } else { start + i - shared };
            for i in 1..lesson.ids.len() {
                if lesson.learned[i] {
                    row.answers.push((place(i - 1), lesson.ids[i]));
                }
            }
            row.ids.extend(&lesson.ids[shared..]);
            row.positions.extend(shared..lesson.ids.len());
            row.part.resize(row.ids.len(), number as u32 + 1);
        }
        row
    }

    /// Whether it holds several conversations.
    pub fn packed(&self) -> bool {
        self.part.iter().any(|part| *part > 1)
    }
}

/// Who sees whom in rows that are filled up to `tokens` places on the right; `None` where being
/// causal says it all. `prefix` tells for each row how many tokens see each other both ways.
///
/// Returns `[rows, tokens, tokens]`, 0 where seen and [`MASKED`](vlm_nn::ops::MASKED) where not.
pub fn mask(
    rows: &[Row],
    prefix: Option<&[usize]>,
    tokens: usize,
    device: &Device,
) -> Option<Tensor<3>> {
    if prefix.is_none() && !rows.iter().any(Row::packed) {
        return None;
    }
    let tokens_of = |(number, row): (usize, &Row)| {
        let both = prefix.map_or(0, |prefix| prefix[number]);
        let token = |(part, position): (&u32, &usize)| Token {
            part: Some(*part as usize),
            turn: (position + 1).saturating_sub(both),
        };
        let mut all: Vec<Token> = row.part.iter().zip(&row.positions).map(token).collect();
        all.extend(padding(tokens - all.len()));
        all
    };
    let all: Vec<Vec<Token>> = rows.iter().enumerate().map(tokens_of).collect();
    Sight::among(&all).mask(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lesson(asked: &[i64], answer: &[i64]) -> Lesson {
        let mut lesson = Lesson::default();
        lesson.push(asked, false);
        lesson.push(answer, true);
        lesson
    }

    #[test]
    fn one_conversation_is_a_plain_row() {
        let row = Row::pack(&[lesson(&[5, 6, 7], &[8, 9])]);
        assert_eq!(row.ids, [5, 6, 7, 8, 9]);
        assert_eq!(row.positions, [0, 1, 2, 3, 4]);
        assert_eq!(row.answers, [(2, 8), (3, 9)]);
        assert!(!row.packed() && mask(&[row], None, 7, &Device::default()).is_none());
    }

    #[test]
    fn conversations_share_their_beginning_and_nothing_else() {
        let row = Row::pack(&[
            lesson(&[1, 1, 2, 3], &[4, 5]),
            lesson(&[1, 1, 2, 6], &[7]),
            lesson(&[1, 1, 8], &[9]),
        ]);
        assert_eq!(row.ids, [1, 1, 2, 3, 4, 5, 2, 6, 7, 8, 9]);
        assert_eq!(row.positions, [0, 1, 2, 3, 4, 5, 2, 3, 4, 2, 3]);
        assert_eq!(row.part, [0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 3]);
        assert_eq!(row.answers, [(3, 4), (4, 5), (7, 7), (9, 9)]);
        let mask = mask(std::slice::from_ref(&row), None, 12, &Device::default()).unwrap();
        let values: Vec<f32> = mask.into_data().iter().collect();
        let seen = |query: usize| -> Vec<usize> {
            (0..12).filter(|key| values[query * 12 + key] == 0.0).collect()
        };
        assert_eq!(seen(1), [0, 1]);
        assert_eq!(seen(4), [0, 1, 2, 3, 4]);
        assert_eq!(seen(8), [0, 1, 6, 7, 8]);
        assert_eq!(seen(10), [0, 1, 9, 10]);
    }

    #[test]
    fn equal_questions_keep_the_token_that_foretells() {
        let row = Row::pack(&[lesson(&[1, 2, 3], &[4]), lesson(&[1, 2, 3], &[5])]);
        assert_eq!(row.ids, [1, 2, 3, 4, 3, 5]);
        assert_eq!(row.answers, [(2, 4), (4, 5)]);
    }

    #[test]
    fn a_prefix_is_seen_both_ways() {
        let rows = [Row::pack(&[lesson(&[1, 2], &[3])])];
        let mask = mask(&rows, Some(&[2]), 3, &Device::default()).unwrap();
        let values: Vec<f32> = mask.into_data().iter().collect();
        let seen: Vec<bool> = values.iter().map(|value| *value == 0.0).collect();
        assert_eq!(seen, [true, true, false, true, true, false, true, true, true]);
    }
}
