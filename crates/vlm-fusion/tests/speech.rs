//! Text as it comes, up to a stop string.

use std::path::Path;

use vlm_encoders::text::Tokenizer;
use vlm_fusion::decode::{Speech, cut};

fn tokenizer() -> Tokenizer {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/generative/smolvlm");
    Tokenizer::from_dir(&dir).unwrap()
}

/// The pieces that tokens of a text make certain, one after another.
fn pieces(tokenizer: &Tokenizer, text: &str, stops: &[&str]) -> (Vec<String>, bool) {
    let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
    let mut speech = Speech::new(tokenizer, &stops);
    let mut all = Vec::new();
    for id in tokenizer.encode_bare(text, 1000).unwrap().ids {
        all.push(speech.push(id).unwrap());
    }
    let stopped = speech.stopped();
    all.push(speech.finish().unwrap());
    assert_eq!(all.concat(), cut(text, &stops), "{text:?} up to {stops:?}");
    (all.into_iter().filter(|piece| !piece.is_empty()).collect(), stopped)
}

#[test]
fn pieces_make_the_text_up_to_a_stop_string() {
    let tokenizer = tokenizer();
    let text = "The cat, né Tom, sat.\nUser: and 日本語?";
    for (stops, stopped) in [
        (vec![], false),
        (vec!["\nUser:"], true),
        (vec!["never", "本"], true),
        (vec!["T"], true),
        (vec!["né Tim", "n\u{e9}"], true),
        // Text that only begins like a stop string is given out after all.
        (vec!["sat.\nUsher", "語?!"], false),
        (vec![""], false),
    ] {
        assert_eq!(pieces(&tokenizer, text, &stops).1, stopped, "{stops:?}");
    }
    // Nothing of a stop string is shown before it is known not to be one.
    let (shown, _) = pieces(&tokenizer, "a<b<c", &["<b>"]);
    assert!(shown.iter().all(|piece| !piece.ends_with('<') || piece.len() > 1), "{shown:?}");
    assert!(shown.len() > 2, "{shown:?}");
}
