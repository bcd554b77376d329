//! The one-object files of COCO's captions and of VQA v2.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::row::most_frequent;
use super::{Conversation, Role, Turn};
use crate::Error;
use crate::files::{Finder, text};

/// Which of the two it is.
#[derive(Deserialize)]
struct Sort {
    questions: Option<Vec<Question>>,
    data_subtype: Option<String>,
    images: Option<Vec<Image>>,
    annotations: Option<Vec<Caption>>,
}

#[derive(Deserialize)]
struct Question {
    question_id: u64,
    image_id: u64,
    question: String,
}

#[derive(Deserialize)]
struct Image {
    id: u64,
    file_name: String,
}

#[derive(Deserialize)]
struct Caption {
    image_id: u64,
    caption: String,
}

#[derive(Deserialize)]
struct Answers {
    annotations: Vec<Annotation>,
}

#[derive(Deserialize)]
struct Annotation {
    question_id: u64,
    answer_type: Option<String>,
    multiple_choice_answer: Option<String>,
    answers: Vec<Answer>,
}

#[derive(Deserialize)]
struct Answer {
    answer: String,
}

/// Reads a file whose content is one object.
pub(super) fn read(
    path: &Path,
    body: &str,
    finder: &mut Finder,
) -> Result<Vec<Conversation>, Error> {
    let sort: Sort = parsed(path, body)?;
    match sort {
        Sort { questions: Some(questions), data_subtype, .. } => {
            vqa(path, questions, data_subtype.as_deref(), finder)
        }
        Sort { images: Some(images), annotations: Some(captions), .. } => {
            captioned(path, images, captions, finder)
        }
        _ => Err(bad(
            path,
            "neither VQA v2's `questions` nor COCO's `images` and `annotations`; formats.md lists \
             what is read",
        )),
    }
}

fn parsed<T: DeserializeOwned>(path: &Path, body: &str) -> Result<T, Error> {
    serde_json::from_str(body)
        .map_err(|e| bad(path, &format!("not as COCO or VQA v2 have it: {e}")))
}

fn bad(path: &Path, reason: &str) -> Error {
    Error::Set { path: path.to_owned(), reason: reason.to_owned() }
}

/// VQA v2: the questions with the annotations that lie beside them.
fn vqa(
    path: &Path,
    questions: Vec<Question>,
    subtype: Option<&str>,
    finder: &mut Finder,
) -> Result<Vec<Conversation>, Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let beside =
        path.with_file_name(name.replace("OpenEnded_", "").replace("questions", "annotations"));
    if beside == path || !beside.exists() {
        let reason = "its answers are looked for in a file beside it, named the same with \
                      `annotations` for `questions`; put that there";
        return Err(bad(path, reason));
    }
    let answers: Answers = parsed(&beside, &text(&beside)?)?;
    let mut by_question: HashMap<u64, Annotation> =
        answers.annotations.into_iter().map(|a| (a.question_id, a)).collect();
    let subtype = subtype.unwrap_or("images");
    let mut samples = Vec::with_capacity(questions.len());
    for (i, question) in questions.into_iter().enumerate() {
        let origin = format!("{}: `questions[{i}]`", path.display());
        let refuse = |reason: String| Error::Line { origin: origin.clone(), reason };
        let annotation = by_question.remove(&question.question_id).ok_or_else(|| {
            refuse(format!(
                "no annotation of question {} in {}; add it",
                question.question_id,
                beside.display()
            ))
        })?;
        let answers: Vec<String> =
            annotation.answers.into_iter().map(|a| a.answer.trim().to_owned()).collect();
        let said = annotation.multiple_choice_answer.unwrap_or_else(|| most_frequent(&answers));
        if question.question.trim().is_empty() {
            return Err(refuse("`question` is empty; fill it or remove the row".into()));
        }
        if said.trim().is_empty() || answers.is_empty() {
            return Err(refuse(format!("its answer in {} is empty; fill it", beside.display())));
        }
        let file = format!("COCO_{subtype}_{:012}.jpg", question.image_id);
        let picture = first(finder, &[&format!("{subtype}/{file}"), &file]).map_err(refuse)?;
        samples.push(Conversation {
            id: Some(question.question_id.to_string()),
            pictures: vec![picture],
            turns: vec![
                Turn { role: Role::User, text: question.question.trim().to_owned(), pictures: 1 },
                Turn { role: Role::Assistant, text: said.trim().to_owned(), pictures: 0 },
            ],
            answers,
            choices: Vec::new(),
            boxes: Vec::new(),
            kind: annotation.answer_type,
            origin,
        });
    }
    Ok(samples)
}

/// COCO: several captions a picture.
fn captioned(
    path: &Path,
    images: Vec<Image>,
    captions: Vec<Caption>,
    finder: &mut Finder,
) -> Result<Vec<Conversation>, Error> {
    let mut by_image: HashMap<u64, Vec<String>> = HashMap::new();
    for (i, caption) in captions.into_iter().enumerate() {
        let text = caption.caption.trim();
        if text.is_empty() {
            return Err(bad(path, &format!("`annotations[{i}]`: the caption is empty; fill it")));
        }
        by_image.entry(caption.image_id).or_default().push(text.to_owned());
    }
    let mut samples = Vec::with_capacity(images.len());
    for (i, image) in images.into_iter().enumerate() {
        let origin = format!("{}: `images[{i}]`", path.display());
        let refuse = |reason: String| Error::Line { origin: origin.clone(), reason };
        let answers = by_image
            .remove(&image.id)
            .ok_or_else(|| refuse(format!("no caption of picture {}; add one", image.file_name)))?;
        let name = image.file_name;
        // COCO keeps the pictures of a split in a folder of that name.
        let split = path.file_stem().unwrap_or_default().to_string_lossy();
        let folder = split.rsplit('_').next().unwrap_or_default();
        let picture = first(finder, &[&name, &format!("{folder}/{name}")]).map_err(refuse)?;
        samples.push(Conversation {
            id: Some(image.id.to_string()),
            pictures: vec![picture],
            turns: vec![
                Turn { role: Role::User, text: String::new(), pictures: 1 },
                Turn { role: Role::Assistant, text: answers[0].clone(), pictures: 0 },
            ],
            answers,
            choices: Vec::new(),
            boxes: Vec::new(),
            kind: None,
            origin,
        });
    }
    if let Some(id) = by_image.keys().min() {
        return Err(bad(path, &format!("captions of picture {id}, which `images` lacks; add it")));
    }
    Ok(samples)
}

/// The first of several places where a picture is, or what is wrong with the first.
fn first(finder: &mut Finder, names: &[&str]) -> Result<PathBuf, String> {
    let mut wrong = None;
    for name in names {
        match finder.find(name) {
            Ok(path) => return Ok(path),
            Err(reason) => wrong = wrong.or(Some(reason)),
        }
    }
    Err(wrong.unwrap_or_default())
}
