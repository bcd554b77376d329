//! Text as it is being said, up to where it is to stop.

use vlm_encoders::text::{TextStream, Tokenizer, TokenizerError};

/// Turns the tokens of one answer into text as they come, and ends it at the first of some stop
/// strings. What may be the beginning of one is held back until it is known.
#[derive(Clone, Debug)]
pub struct Speech<'a> {
    stream: TextStream<'a>,
    stops: &'a [String],
    held: String,
    stopped: bool,
}

impl<'a> Speech<'a> {
    /// Of an answer that ends before any of `stops`; empty ones are passed over.
    pub fn new(tokenizer: &'a Tokenizer, stops: &'a [String]) -> Self {
        Speech { stream: tokenizer.stream(), stops, held: String::new(), stopped: false }
    }

    /// The text that the next token makes certain, which may be none.
    ///
    /// # Errors
    /// If the tokenizer does not know the token.
    pub fn push(&mut self, id: i64) -> Result<String, TokenizerError> {
        if self.stopped {
            return Ok(String::new());
        }
        let piece = self.stream.push(id)?;
        Ok(self.hear(&piece))
    }

    /// Whether a stop string has come.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// What was held back and is the end of the text.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn finish(mut self) -> Result<String, TokenizerError> {
        if self.stopped {
            return Ok(String::new());
        }
        let rest = self.stream.clone().finish()?;
        let mut said = self.hear(&rest);
        if !self.stopped {
            said.push_str(&self.held);
        }
        Ok(said)
    }

    fn hear(&mut self, piece: &str) -> String {
        self.held.push_str(piece);
        if let Some(end) = first(&self.held, self.stops) {
            self.stopped = true;
            self.held.truncate(end);
            return std::mem::take(&mut self.held);
        }
        let certain = self.held.len() - begun(&self.held, self.stops);
        let rest = self.held.split_off(certain);
        std::mem::replace(&mut self.held, rest)
    }
}

/// A finished text up to the first of some stop strings.
pub fn cut<'t>(text: &'t str, stops: &[String]) -> &'t str {
    first(text, stops).map_or(text, |end| &text[..end])
}

/// Where the first stop string begins.
fn first(text: &str, stops: &[String]) -> Option<usize> {
    stops.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| text.find(stop)).min()
}

/// How many bytes at the end of a text may be the beginning of a stop string.
fn begun(text: &str, stops: &[String]) -> usize {
    let one = |stop: &String| {
        let mut lengths = stop.char_indices().map(|(at, _)| at).skip(1).collect::<Vec<_>>();
        lengths.reverse();
        lengths.into_iter().find(|length| text.ends_with(&stop[..*length])).unwrap_or(0)
    };
    stops.iter().map(one).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_strings_are_found_and_their_beginnings_held_back() {
        let stops = ["</end>".to_owned(), "\n\n".to_owned(), String::new(), "né".to_owned()];
        assert_eq!(cut("ab\n\nc</end>", &stops), "ab");
        assert_eq!(cut("ab", &stops), "ab");
        assert_eq!(cut("</end>", &stops), "");
        for (text, held) in [("a<", 1), ("a</en", 4), ("a\n", 1), ("a", 0), ("", 0), ("an", 1)] {
            assert_eq!(begun(text, &stops), held, "{text:?}");
        }
    }
}
