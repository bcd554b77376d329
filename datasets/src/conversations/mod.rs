//! Pictures and what is asked and answered about them.

mod coco;
mod list;
mod row;
mod turns;

use std::path::{Path, PathBuf};

use crate::files::Finder;
use crate::{Error, Sample, formats, set};

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The rules of the conversation.
    System,
    /// Who asks.
    User,
    /// Who answers: what a model learns to say.
    Assistant,
}

impl Role {
    /// The name that chat templates know it by.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// What one side says at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// Who says it.
    pub role: Role,
    /// The text, without placeholders of pictures. A user's is empty where the set leaves the
    /// asking to the task, as captions do; an assistant's where the answer is the
    /// [`boxes`](Conversation::boxes), which each model writes in a way of its own.
    pub text: String,
    /// How many of the conversation's pictures, in their order, stand in front of the text.
    pub pictures: usize,
}

/// A box around something in a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Region {
    /// What is in it.
    pub label: Option<String>,
    /// Left, top, right, bottom as shares of the picture's width and height, from 0 to 1.
    pub corners: [f64; 4],
}

/// Pictures and turns about them: a user's and an assistant's by turns, after a system's at most;
/// the last is an assistant's.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversation {
    /// How the set names it, if it does.
    pub id: Option<String>,
    /// Where its pictures are; none for a text alone.
    pub pictures: Vec<PathBuf>,
    /// What is said, in order.
    pub turns: Vec<Turn>,
    /// All that is right as the last answer: a picture's several captions, what ten people
    /// answered. Empty where the answer is the boxes.
    pub answers: Vec<String>,
    /// What the last answer is chosen among, if that is said.
    pub choices: Vec<String>,
    /// Where what is asked for is in the (only) picture.
    pub boxes: Vec<Region>,
    /// Of which kind the last question is, for tables.
    pub kind: Option<String>,
    /// File and line, or row, that it comes from.
    pub origin: String,
}

impl Conversation {
    /// The last thing that is asked; empty where the set leaves that to the task.
    pub fn question(&self) -> &str {
        let asked = self.turns.iter().rev().find(|turn| turn.role == Role::User);
        asked.map_or("", |turn| &turn.text)
    }

    /// The last answer, as it is learned; empty where it is the boxes.
    pub fn answer(&self) -> &str {
        self.turns.last().map_or("", |turn| &turn.text)
    }
}

/// A list of conversations.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversations {
    /// The folder that pictures are relative to.
    pub root: PathBuf,
    /// The conversations, in the order of the files.
    pub samples: Vec<Conversation>,
    /// What was changed or left out, a line each, to be told to the user.
    pub notes: Vec<String>,
}

/// Endings of files that list conversations.
const TABLES: [&str; 4] = ["jsonl", "json", "csv", "tsv"];

impl Conversations {
    /// Opens `PATH[:SPLIT]`, or a shipped or made `NAME[:SPLIT]`, as
    /// [`Dataset::open`](crate::Dataset::open) does.
    ///
    /// A file is a list of LLaVA conversations or of messages (`.json`, `.jsonl`), of questions
    /// (`.jsonl`), VQA v2's questions with its annotations beside them, COCO's captions, or any
    /// list of captions. Every row is looked at, and every picture must be there, so that training
    /// does not end on row 31,000; pictures are not decoded.
    ///
    /// # Errors
    /// If there is no such set, or anything in it cannot be used; the message names file, row,
    /// field and remedy.
    pub fn open(spec: &str, default_split: &str) -> Result<Self, Error> {
        Conversations::open_with(spec, default_split, None)
    }

    /// As [`open`](Self::open), with pictures relative to another folder than the file's.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(
        spec: &str,
        default_split: &str,
        pictures: Option<&Path>,
    ) -> Result<Self, Error> {
        let (path, split) = set::locate(spec)?;
        let place = formats::find(&path, split, default_split, &TABLES)?;
        let root = pictures.map_or(place.root, Path::to_owned);
        let mut notes = Vec::new();
        let samples = match &place.table {
            Some(file) if has_ending(file, "json") || has_ending(file, "jsonl") => {
                list::read(file, &mut Finder::new(&root)?, &mut notes)?
            }
            Some(file) => formats::table(&root, file)?.into_iter().map(captioned).collect(),
            None => formats::folder(&root, &place.entries)?.into_iter().map(captioned).collect(),
        };
        if samples.is_empty() {
            return Err(Error::Set { path, reason: "no sample in it; add some".into() });
        }
        Ok(Conversations { root, samples, notes })
    }
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(ending))
}

/// A picture's captions as answers to a question that the task asks.
fn captioned(sample: Sample) -> Conversation {
    let caption = sample.captions.first().cloned().unwrap_or_default();
    Conversation {
        id: None,
        pictures: vec![sample.image],
        turns: vec![
            Turn { role: Role::User, text: String::new(), pictures: 1 },
            Turn { role: Role::Assistant, text: caption, pictures: 0 },
        ],
        answers: sample.captions,
        choices: Vec::new(),
        boxes: Vec::new(),
        kind: None,
        origin: sample.origin,
    }
}
