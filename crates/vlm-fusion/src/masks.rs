//! Who sees whom: the one place where masks are made.
//!
//! One law covers causal texts, prefix-LM, padding, the three views of a Q-Former and several
//! questions packed behind one picture. Every token has a part and a turn ([`Token`]), and a token
//! sees another if
//!
//! - the other belongs to part 0, which is everybody's, or to its own part, and
//! - the other's turn is not later than its own.
//!
//! | what | parts | turns |
//! |---|---|---|
//! | [`causal`] | 0 | 0, 1, 2, … |
//! | [`prefix`] (PaliGemma, arXiv 2407.07726) | 0 | 0 in the prefix, then 1, 2, … |
//! | [`padding`] | none: nobody sees it, and it sees nobody | |
//! | [`packed`] | the picture 0, the questions 1, 2, … | 0, 1, 2, … within each |
//! | [`q_former`] | queries and text apart or together | see [`View`] |
//!
//! Flamingo's rule, by which a text sees the pictures of the row and not the other way round, is
//! [`recent`].

use burn::tensor::{Device, Tensor, TensorData};
use vlm_nn::ops::MASKED;

/// What decides who sees a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Whose it is: 0 is everybody's, `None` is padding.
    pub part: Option<usize>,
    /// A token sees none of a later turn.
    pub turn: usize,
}

impl Token {
    fn new(part: usize, turn: usize) -> Self {
        Token { part: Some(part), turn }
    }

    /// Whether this token sees the other.
    pub fn sees(self, other: Token) -> bool {
        match (self.part, other.part) {
            (Some(own), Some(part)) => (part == 0 || part == own) && other.turn <= self.turn,
            _ => false,
        }
    }
}

/// Tokens that see themselves and those before them.
pub fn causal(tokens: usize) -> Vec<Token> {
    prefix(0, tokens)
}

/// The first `prefix` tokens see each other, the others are causal.
pub fn prefix(prefix: usize, tokens: usize) -> Vec<Token> {
    (0..tokens).map(|i| Token::new(0, (i + 1).saturating_sub(prefix))).collect()
}

/// Tokens that nobody sees, to be put before or after others.
pub fn padding(tokens: usize) -> Vec<Token> {
    vec![Token { part: None, turn: 0 }; tokens]
}

/// `shared` tokens (a picture), then texts of these lengths, which see the shared tokens and
/// themselves only: what each text gets is exactly what it would get alone behind the picture, if
/// its [`positions`] go with it.
///
/// All are causal, so that the picture never sees a question.
pub fn packed(shared: usize, texts: &[usize]) -> Vec<Token> {
    let behind = texts.iter().zip(1..);
    let texts = behind.flat_map(|(len, part)| (0..*len).map(move |i| Token::new(part, shared + i)));
    causal(shared).into_iter().chain(texts).collect()
}

/// The place of each token in its own text, counted over what it shares and its own part; 0 for
/// padding.
///
/// Shared tokens have to stand before all others, as [`packed`] has them.
pub fn positions(row: &[Token]) -> Vec<usize> {
    let mut counts = vec![0];
    row.iter()
        .map(|token| {
            let Some(part) = token.part else { return 0 };
            if part >= counts.len() {
                counts.resize(part + 1, 0);
            }
            counts[part] += 1;
            counts[part] - 1 + if part == 0 { 0 } else { counts[0] }
        })
        .collect()
}

/// How queries and text of a Q-Former see each other (BLIP-2, arXiv 2301.12597, figure 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Neither sees the other: contrast of pictures and texts.
    Apart,
    /// All see all: whether picture and text belong together; queries that read a question.
    Together,
    /// The text is causal and sees the queries, which see themselves only: captions.
    Caption,
}

/// `queries`, then a text of which `seen` says what is not padding.
pub fn q_former(view: View, queries: usize, seen: &[bool]) -> Vec<Token> {
    let (own, other) = match view {
        View::Apart => (1, 2),
        View::Together | View::Caption => (0, 0),
    };
    let text = seen.iter().enumerate().map(|(i, seen)| match (seen, view) {
        (false, _) => Token { part: None, turn: 0 },
        (true, View::Caption) => Token::new(other, i + 1),
        (true, _) => Token::new(other, 0),
    });
    std::iter::repeat_n(Token::new(own, 0), queries).chain(text).collect()
}

/// A table of what each query of each row sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    rows: usize,
    queries: usize,
    keys: usize,
    seen: Vec<bool>,
}

impl Sight {
    /// By a rule `(row, query, key)`.
    pub fn of(
        [rows, queries, keys]: [usize; 3],
        sees: impl Fn(usize, usize, usize) -> bool,
    ) -> Self {
        let mut seen = Vec::with_capacity(rows * queries * keys);
        for row in 0..rows {
            for query in 0..queries {
                seen.extend((0..keys).map(|key| sees(row, query, key)));
            }
        }
        Sight { rows, queries, keys, seen }
    }

    /// Of rows of tokens among themselves, by the law above.
    ///
    /// # Panics
    /// If the rows differ in length.
    pub fn among(rows: &[Vec<Token>]) -> Self {
        let tokens = rows.first().map_or(0, Vec::len);
        assert!(rows.iter().all(|row| row.len() == tokens), "rows of tokens differ in length");
        Sight::of([rows.len(), tokens, tokens], |row, i, j| rows[row][i].sees(rows[row][j]))
    }

    /// What the last `queries` of the tokens see: the part of the table that is left when the
    /// others are in a cache.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn last(&self, queries: usize) -> Self {
        let skipped = self.queries - queries;
        Sight::of([self.rows, queries, self.keys], |row, i, j| self.sees(row, skipped + i, j))
    }

    /// Whether a query sees a key.
    pub fn sees(&self, row: usize, query: usize, key: usize) -> bool {
        self.seen[(row * self.queries + query) * self.keys + key]
    }

    /// What is added to the scores, `[rows, queries, keys]`; nothing if all is seen.
    pub fn mask(&self, device: &Device) -> Option<Tensor<3>> {
        if self.seen.iter().all(|seen| *seen) {
            return None;
        }
        let values: Vec<f32> =
            self.seen.iter().map(|seen| if *seen { 0.0 } else { MASKED }).collect();
        let shape = [self.rows, self.queries, self.keys];
        Some(Tensor::from_data(TensorData::new(values, shape), device))
    }
}

/// How many pictures tokens at these positions have behind them, where `places` are the positions
/// of the first tokens behind each picture.
pub fn pictures_so_far(places: &[usize], positions: impl IntoIterator<Item = usize>) -> Vec<usize> {
    let behind = |position| places.iter().filter(|place| **place <= position).count();
    positions.into_iter().map(behind).collect()
}

/// Of `pictures` pictures with `each` rows, a token sees those of the last one before it: of that
/// picture which `so_far: [rows][tokens]` counts, and of none where that is 0 (Flamingo,
/// arXiv 2204.14198, section 2.3).
pub fn recent(so_far: &[Vec<usize>], pictures: usize, each: usize) -> Sight {
    let tokens = so_far.first().map_or(0, Vec::len);
    Sight::of([so_far.len(), tokens, pictures * each], |row, i, j| so_far[row][i] == j / each + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(row: &[Token]) -> Vec<String> {
        let seen = |a: &Token| row.iter().map(|b| if a.sees(*b) { '#' } else { '.' }).collect();
        row.iter().map(seen).collect()
    }

    #[test]
    fn a_text_is_causal_behind_its_prefix() {
        assert_eq!(picture(&causal(3)), ["#..", "##.", "###"]);
        assert_eq!(picture(&prefix(2, 4)), ["##..", "##..", "###.", "####"]);
        assert_eq!(picture(&prefix(9, 2)), ["##", "##"]);
    }

    #[test]
    fn padding_is_alone() {
        let row = [padding(1), causal(2)].concat();
        assert_eq!(picture(&row), ["...", ".#.", ".##"]);
        assert_eq!(positions(&row), [0, 0, 1]);
    }

    #[test]
    fn packed_texts_see_the_picture_and_themselves() {
        let row = packed(2, &[2, 1]);
        assert_eq!(picture(&row), ["#....", "##...", "###..", "####.", "##..#"]);
        assert_eq!(positions(&row), [0, 1, 2, 3, 2]);
    }

    #[test]
    fn a_q_former_has_three_views() {
        let view = |view| picture(&q_former(view, 2, &[true, true, false]));
        assert_eq!(view(View::Apart), ["##...", "##...", "..##.", "..##.", "....."]);
        assert_eq!(view(View::Together), ["####.", "####.", "####.", "####.", "....."]);
        assert_eq!(view(View::Caption), ["##...", "##...", "###..", "####.", "....."]);
    }

    #[test]
    fn the_last_picture_counts() {
        let so_far = pictures_so_far(&[1, 3], 0..4);
        assert_eq!(so_far, [0, 1, 1, 2]);
        let sight = recent(&[so_far], 2, 2);
        let row = |i| (0..4).map(|j| sight.sees(0, i, j)).collect::<Vec<_>>();
        assert_eq!(row(0), [false; 4]);
        assert_eq!(row(2), [true, true, false, false]);
        assert_eq!(row(3), [false, false, true, true]);
    }

    #[test]
    fn a_cache_leaves_the_last_rows_of_the_table() {
        let all = Sight::among(&[packed(1, &[1, 1]), causal(3)]);
        let last = all.last(1);
        for row in 0..2 {
            for key in 0..3 {
                assert_eq!(last.sees(row, 0, key), all.sees(row, 2, key));
            }
        }
        assert!(Sight::among(&[prefix(3, 3)]).mask(&Device::flex()).is_none());
    }
}
