//! One answer, shown as it comes.

use std::ops::ControlFlow;

use anyhow::Result;
use vlm_encoders::text::TokenizerError;
use vlm_fusion::decode::{Prompt, Sampling, Speech, cut, go_on};
use vlm_nn::Cache;

use super::Speaker;

/// An answer.
pub struct Said {
    /// Its text, up to a stop string.
    pub text: String,
    /// Its tokens; the one that ended it too.
    pub ids: Vec<i64>,
}

/// Answers a prompt that follows what the cache holds; `show` gets pieces of the text, and may break
/// off.
///
/// # Errors
/// If the prompt does not fit the model, or `show` fails.
pub fn say(
    speaker: &Speaker,
    cache: &mut Cache,
    prompt: &Prompt,
    sampling: &Sampling,
    stops: &[String],
    show: &mut dyn FnMut(&str) -> Result<ControlFlow<()>>,
) -> Result<Said> {
    let tokenizer = speaker.tokenizer();
    let mut speech = Speech::new(tokenizer, stops);
    let mut failed = None;
    let answers = go_on(speaker.decoder(), cache, prompt, sampling, &mut |_, id| {
        // A model may have more rows than its tokenizer has tokens; such a token says nothing.
        let piece = match speech.push(id) {
            Err(TokenizerError::UnknownId { .. }) => Ok(String::new()),
            other => other.map_err(anyhow::Error::from),
        };
        let quiet = ControlFlow::Continue(());
        match piece.and_then(|piece| if piece.is_empty() { Ok(quiet) } else { show(&piece) }) {
            Ok(ControlFlow::Continue(())) if !speech.stopped() => ControlFlow::Continue(()),
            Ok(_) => ControlFlow::Break(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let rest = speech.finish()?;
    if !rest.is_empty() {
        // It ends here anyway.
        let _ = show(&rest)?;
    }
    let ids = answers.into_iter().next().map(|answer| answer.ids).unwrap_or_default();
    let known: Vec<i64> =
        ids.iter().copied().filter(|id| tokenizer.id_to_token(*id).is_some()).collect();
    let text = tokenizer.decode(&known)?;
    Ok(Said { text: cut(&text, stops).to_owned(), ids })
}
