//! What the tokenizer of a folder makes of texts, as JSON: for comparing with other programs, as
//! xtask/check_tokenizers.py does.
//!
//! ```sh
//! echo '{"texts": ["a red bus"], "context": 8, "chats": []}' | cargo run --release -p vlm-encoders --example tokenize my-tokenizer
//! ```

use std::error::Error;
use std::path::Path;

use serde_json::{Value, json};
use vlm_encoders::text::{Content, Message, Part, Tokenizer};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("give a folder with a tokenizer.json")?;
    let tokenizer = Tokenizer::from_dir(Path::new(&folder))?;
    let input: Value = serde_json::from_reader(std::io::stdin())?;
    let context = input["context"].as_u64().unwrap_or(u64::MAX) as usize;
    let list = |key: &str| input[key].as_array().cloned().unwrap_or_default();
    let texts: Result<Vec<Value>, Box<dyn Error>> = list("texts")
        .iter()
        .map(|text| {
            let text = text.as_str().ok_or("`texts` holds something that is no text")?;
            let ids = tokenizer.encode(text, usize::MAX)?.ids;
            let mut stream = tokenizer.stream();
            let streamed = ids.iter().map(|id| stream.push(*id)).collect::<Result<String, _>>()?;
            Ok(json!({
                "cut": tokenizer.encode(text, context)?.ids,
                "bare": tokenizer.encode_bare(text, usize::MAX)?.ids,
                "text": tokenizer.decode(&ids)?,
                "kept": tokenizer.decode_with_special(&ids)?,
                "streamed": streamed + &stream.finish()?,
                "ids": ids,
            }))
        })
        .collect();
    let chats: Vec<Value> = list("chats")
        .iter()
        .map(|chat| {
            let said: Vec<Message> = chat.as_array().into_iter().flatten().map(message).collect();
            match tokenizer.chat(&said, true) {
                Ok(text) => json!({ "text": text }),
                Err(error) => json!({ "error": error.to_string() }),
            }
        })
        .collect();
    println!("{}", json!({ "texts": texts?, "chats": chats }));
    Ok(())
}

fn message(value: &Value) -> Message {
    let part = |part: &Value| match part["text"].as_str() {
        Some(text) => Part::Text { text: text.to_owned() },
        None => Part::Image,
    };
    let content = match &value["content"] {
        Value::Array(parts) => Content::Parts(parts.iter().map(part).collect()),
        other => Content::Text(other.as_str().unwrap_or_default().to_owned()),
    };
    Message { role: value["role"].as_str().unwrap_or_default().to_owned(), content }
}
