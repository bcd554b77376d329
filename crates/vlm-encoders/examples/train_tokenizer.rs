//! Trains CLIP's kind of tokenizer on the lines of a text file and writes its files to a folder.
//!
//! ```sh
//! cargo run --release -p vlm-encoders --example train_tokenizer captions.txt 4096 77 my-tokenizer
//! ```

use std::error::Error;
use std::path::Path;

use vlm_encoders::text::train_clip_bpe;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [corpus, vocabulary, context, out] = arguments.as_slice() else {
        return Err("give a text file, the vocabulary, the longest text in tokens, a folder".into());
    };
    let text = std::fs::read_to_string(corpus)?;
    let lines = text.lines().map(String::from);
    let tokenizer = train_clip_bpe(lines, vocabulary.parse()?, context.parse()?)?;
    std::fs::create_dir_all(out)?;
    tokenizer.save(Path::new(out))?;
    println!("{} tokens: {out}", tokenizer.vocab_size());
    Ok(())
}
