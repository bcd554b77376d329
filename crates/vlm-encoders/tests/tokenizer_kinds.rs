//! Each kind of tokenizer against transformers, on two thousand lines of all sorts of text
//! (made by xtask/golden/tokenizer_kinds.py).

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;
use vlm_encoders::text::{Content, Message, Padding, Part, Side, Tokenizer, TokenizerError};

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizer_kinds")
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(dir().join(name)).unwrap()).unwrap()
}

fn open(name: &str) -> Tokenizer {
    // CLIP's kind is the one that the crate trains itself.
    let folder = if name == "clip" { dir().join("../tokenizer") } else { dir().join(name) };
    Tokenizer::from_dir(&folder).unwrap()
}

/// FNV-1a over whole numbers, as the script has it.
fn hash(numbers: impl IntoIterator<Item = i64>) -> u32 {
    numbers
        .into_iter()
        .fold(0x811C_9DC5, |value: u32, n| (value ^ n as u32).wrapping_mul(0x0100_0193))
}

fn bytes(text: &str) -> u32 {
    hash(text.bytes().map(i64::from))
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect()
}

#[test]
fn ids_and_texts_are_those_of_transformers() {
    let (lines, about) = (json("lines.json"), json("cases.json"));
    let lines = strings(&lines);
    let context = about["context"].as_u64().unwrap() as usize;
    let data = std::fs::read(dir().join("expected.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&data).unwrap();
    assert!(lines.len() >= 2000 && tensors.len() == 10);
    for (name, view) in tensors.tensors() {
        let tokenizer = open(&name);
        let (words, _) = view.data().as_chunks::<4>();
        assert_eq!(words.len(), 2 * lines.len());
        for (line, expected) in lines.iter().zip(words.as_chunks::<2>().0) {
            let shown = format!("{name} {:?}", line.chars().take(200).collect::<String>());
            let whole = tokenizer.encode(line, 1 << 20).unwrap().ids;
            assert_eq!(hash(whole.clone()), u32::from_le_bytes(expected[0]), "{shown} {whole:?}");
            let cut = tokenizer.encode(line, context).unwrap();
            assert_eq!(cut.truncated, whole.len() > context, "{shown}");
            let bare = tokenizer.encode_bare(line, 1 << 20).unwrap().ids;
            let (text, kept) =
                (tokenizer.decode(&whole).unwrap(), tokenizer.decode_with_special(&whole).unwrap());
            let rest = [hash(cut.ids.clone()), hash(bare.clone()), bytes(&text), bytes(&kept)];
            assert_eq!(
                hash(rest.map(i64::from)),
                u32::from_le_bytes(expected[1]),
                "{shown} {:?} {bare:?} {text:?} {kept:?}",
                cut.ids
            );
        }
    }
}

#[test]
fn batches_are_padded_and_cut_as_in_transformers() {
    let about = json("cases.json");
    let context = about["context"].as_u64().unwrap() as usize;
    for kind in about["kinds"].as_array().unwrap() {
        let name = kind["name"].as_str().unwrap();
        let tokenizer = open(name);
        let texts = strings(&kind["texts"]);
        for (ids, text) in kind["first"].as_array().unwrap().iter().zip(&texts[21..]) {
            let ids: Vec<i64> =
                ids.as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).collect();
            assert_eq!(tokenizer.encode(text, 1 << 20).unwrap().ids, ids, "{name} {text:?}");
        }
        let batches = [
            (&texts[..], Padding::Fixed(context)),
            (&texts[..], Padding::Longest),
            (&texts[12..14], Padding::Longest),
        ];
        for ((texts, padding), expected) in
            batches.into_iter().zip(kind["padded"].as_array().unwrap())
        {
            let batch = tokenizer.encode_batch(texts, context, padding).unwrap();
            let number = |key: &str| expected[key].as_u64().unwrap();
            assert_eq!((batch.rows, batch.cols as u64), (texts.len(), number("cols")), "{name}");
            let mask = batch.mask.iter().map(|m| i64::from(*m));
            assert_eq!(u64::from(hash(mask)), number("attention_mask"), "{name}");
            assert_eq!(u64::from(hash(batch.ids)), number("input_ids"), "{name}");
            assert_eq!(u64::from(hash(batch.types)), number("token_type_ids"), "{name}");
        }
    }
}

#[test]
fn sides_come_from_the_file_and_can_be_set() {
    let mut tokenizer = open("llama3");
    assert_eq!((tokenizer.padding_side(), tokenizer.truncation_side()), (Side::Left, Side::Left));
    let bos = tokenizer.bos_id().unwrap();
    let whole = tokenizer.encode("a red bus and a small dog", 99).unwrap().ids;
    let left = tokenizer.encode("a red bus and a small dog", 4).unwrap().ids;
    assert_eq!((left[0], &left[1..]), (bos, &whole[whole.len() - 3..]));
    tokenizer.set_truncation_side(Side::Right);
    assert_eq!(tokenizer.encode("a red bus and a small dog", 4).unwrap().ids, whole[..4]);
    tokenizer.set_padding_side(Side::Right);
    let batch = tokenizer.encode_batch(&["a", "a red bus"], 99, Padding::Longest).unwrap();
    assert_eq!((batch.ids[0], batch.mask[0], batch.mask[batch.cols - 1]), (bos, true, false));
    assert_eq!(open("siglip").max_length(), Some(24));
    assert_eq!(open("llama2").max_length(), None);
}

#[test]
fn a_stream_gives_the_whole_text_in_whole_letters() {
    let lines = json("lines.json");
    let about = json("cases.json");
    for kind in about["kinds"].as_array().unwrap() {
        let tokenizer = open(kind["name"].as_str().unwrap());
        let mut pieces = 0;
        for line in strings(&lines).into_iter().filter(|line| line.len() < 400).step_by(3) {
            let ids = tokenizer.encode(line, 1 << 20).unwrap().ids;
            let mut stream = tokenizer.stream();
            let mut text = String::new();
            for id in &ids {
                let piece = stream.push(*id).unwrap();
                assert!(line.contains('\u{fffd}') || !piece.contains('\u{fffd}'), "{line:?}");
                pieces += usize::from(!piece.is_empty());
                text.push_str(&piece);
            }
            text.push_str(&stream.finish().unwrap());
            let whole = tokenizer.decode(&ids).unwrap();
            // What is tidied in the finished text is only known then.
            let plain = |text: &str| text.split([' ', '\'']).collect::<String>();
            let name = &kind["name"];
            match name.as_str() {
                Some("bert-uncased" | "llama3") => assert_eq!(plain(&text), plain(&whole)),
                Some("clip") => assert_eq!(text.trim(), whole),
                _ => assert_eq!(text, whole, "{name} {line:?}"),
            }
        }
        assert!(pieces > 1000);
    }
}

#[test]
fn a_letter_waits_for_its_last_byte() {
    for name in ["gpt2", "llama2"] {
        let tokenizer = open(name);
        let ids = tokenizer.encode_bare("a🦜b", 99).unwrap().ids;
        let mut stream = tokenizer.stream();
        let pieces: Vec<String> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        assert_eq!(pieces.concat(), "a🦜b", "{name}");
        assert!(pieces.iter().any(String::is_empty) && pieces.contains(&"🦜".into()), "{pieces:?}");
        let mut stream = tokenizer.stream();
        let cut = ids.len() - 2;
        let begun: String = ids[..cut].iter().map(|id| stream.push(*id).unwrap()).collect();
        assert_eq!(begun, "a", "{name}");
        assert!(stream.finish().unwrap().starts_with('\u{fffd}'), "{name}");
        // Bytes that never make a letter are let go.
        let byte = ids[cut - 1];
        let mut stream = tokenizer.stream();
        let given: String = (0..20).map(|_| stream.push(byte).unwrap()).collect();
        assert!(!given.is_empty() && given.chars().all(|c| c == '\u{fffd}'), "{name} {given:?}");
        assert!(stream.push(1 << 40).is_err());
    }
}

fn messages(value: &Value) -> Vec<Message> {
    let content = |value: &Value| match value {
        Value::String(text) => Content::Text(text.clone()),
        parts => Content::Parts(
            parts
                .as_array()
                .unwrap()
                .iter()
                .map(|part| match part["text"].as_str() {
                    Some(text) => Part::Text { text: text.into() },
                    None => Part::Image,
                })
                .collect(),
        ),
    };
    let message = |m: &Value| Message {
        role: m["role"].as_str().unwrap().into(),
        content: content(&m["content"]),
    };
    value.as_array().unwrap().iter().map(message).collect()
}

#[test]
fn chats_are_those_of_transformers() {
    let about = json("cases.json");
    let folder = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(dir().join("llama2").join(file), folder.path().join(file)).unwrap();
    }
    let bare = Tokenizer::from_dir(folder.path()).unwrap();
    assert!(!bare.can_chat());
    assert!(matches!(bare.chat(&[], true), Err(TokenizerError::NoTemplate)));
    let templates = strings(&about["templates"]);
    for case in about["chats"].as_array().unwrap() {
        let template = templates[case["template"].as_u64().unwrap() as usize];
        std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
        let tokenizer = Tokenizer::from_dir(folder.path()).unwrap();
        let chat = tokenizer.chat(&messages(&case["messages"]), case["prompt"].as_bool().unwrap());
        match case["text"].as_str() {
            Some(text) => assert_eq!(chat.unwrap(), text, "{template} {}", case["messages"]),
            None => assert!(chat.is_err(), "{template} {}: {chat:?}", case["messages"]),
        }
    }
}

#[test]
fn templates_are_found_in_all_their_places() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let chat = || {
        let tokenizer = Tokenizer::from_dir(folder.path())?;
        tokenizer.chat(&[Message::text("user", "Hi")], false)
    };
    std::fs::copy(dir().join("llama2/tokenizer.json"), folder.path().join("tokenizer.json"))
        .unwrap();
    write("tokenizer_config.json", r#"{"chat_template": "1{{ messages[0].content }}"}"#);
    assert_eq!(chat().unwrap(), "1Hi");
    let list = r#"[{"name": "tool_use", "template": "no"}, {"name": "default", "template": "2"}]"#;
    write("tokenizer_config.json", &format!(r#"{{"chat_template": {list}}}"#));
    assert_eq!(chat().unwrap(), "2");
    write("chat_template.json", r#"{"chat_template": "3{{ messages|length }}"}"#);
    assert_eq!(chat().unwrap(), "31");
    write("chat_template.jinja", "4{{ raise_exception('no') if messages|length > 1 }}");
    assert_eq!(chat().unwrap(), "4");
    write("chat_template.jinja", "{% nonsense %}");
    let message = chat().unwrap_err().to_string();
    assert!(message.contains("chat_template.jinja: the chat template fails"), "{message}");
    assert!(!message.contains('\n'), "{message}");
    std::fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
    write("chat_template.json", "{}");
    assert!(chat().unwrap_err().to_string().contains("has no `chat_template`"));
}
