//! From what was said to tokens, with the answers marked.

use vlm_datasets::{Conversation, Conversations, Role, Turn};
use vlm_encoders::text::{Content, Message, Part};

use super::pack::Lesson;
use crate::processor::Place;
use crate::spatial::{Codec, Located};
use crate::{Error, GenerativeFolder};

/// How conversations are told to a model.
#[derive(Clone, Copy, Debug)]
pub struct Telling<'a> {
    /// What is asked where the conversation does not say.
    pub question: &'a str,
    /// Whether its pictures are left out.
    pub blind: bool,
    /// How boxes are written.
    pub boxes: Codec,
}

impl Telling<'_> {
    /// All that is asked and answered, for a tokenizer to learn.
    pub fn texts<'a>(&'a self, data: &'a Conversations) -> impl Iterator<Item = String> + 'a {
        data.samples.iter().flat_map(|sample| {
            let turns = sample.turns.iter().map(|turn| self.text(turn).to_owned());
            let boxes = sample.answer().is_empty().then(|| self.boxes_of(sample));
            turns.chain(boxes)
        })
    }

    fn text<'a>(&'a self, turn: &'a Turn) -> &'a str {
        match turn.role {
            Role::User if turn.text.is_empty() => self.question,
            _ => &turn.text,
        }
    }

    /// The boxes that answer a conversation.
    fn boxes_of(&self, conversation: &Conversation) -> String {
        let boxes: Vec<Located> = conversation.boxes.iter().filter_map(Located::of).collect();
        self.boxes.encode(&boxes)
    }

    pub(super) fn message(&self, turn: &Turn) -> Message {
        let text = self.text(turn);
        let pictures = if self.blind { 0 } else { turn.pictures };
        if pictures == 0 {
            return Message::text(turn.role.as_str(), text);
        }
        let mut parts: Vec<Part> = (0..pictures).map(|_| Part::Image).collect();
        parts.push(Part::Text { text: text.to_owned() });
        Message { role: turn.role.as_str().to_owned(), content: Content::Parts(parts) }
    }
}

impl GenerativeFolder {
    /// The tokens of a conversation, its answers marked to be learned, each with the token that ends
    /// it. `places` say how its pictures are cut up. A text is cut into tokens as it will be when it
    /// is asked: question and answer apart.
    ///
    /// # Errors
    /// If the chat template refuses the turns; [`Error::Context`] if they are longer than the model
    /// takes.
    pub(crate) fn lesson(
        &self,
        conversation: &Conversation,
        places: &[Place],
        telling: Telling<'_>,
    ) -> Result<Lesson, Error> {
        let mut messages: Vec<Message> =
            conversation.turns.iter().map(|turn| telling.message(turn)).collect();
        // Where the answer is the boxes, they are written as text.
        if let Some(last) = messages.last_mut().filter(|_| conversation.answer().is_empty()) {
            last.content = Content::Text(telling.boxes_of(conversation));
        }
        let end = self.end_token()?;
        let mut lesson = Lesson::default();
        let mut pictures = places.iter().copied();
        let mut expanded = |text: &str| {
            let of: Vec<Place> = pictures.by_ref().take(self.places(text)).collect();
            match of.len() == self.places(text) {
                true => Ok(self.processor.expand(text, &self.plan.spec, &of)),
                false => Err(Error::Pictures {
                    pictures: places.len(),
                    places: self.places(text),
                    token: self.processor.token.clone(),
                }),
            }
        };
        if !self.tokenizer.can_chat() {
            let [question, answer] = messages.as_slice() else {
                return Err(Error::NoTemplate { turns: messages.len() });
            };
            let marked = self.marked(question, places.len());
            let begins = self.processor.begins();
            lesson.push(&self.tokens(&expanded(&marked)?, begins)?, false);
            lesson.push(&self.tokens(&text_of(answer), false)?, true);
            lesson.push(&[end.0], true);
            return self.fits(lesson);
        }
        // Text up to here has been cut.
        let mut done = 0;
        for (i, message) in messages.iter().enumerate() {
            if message.role != Role::Assistant.as_str() {
                continue;
            }
            let asked = self.chat(&messages[..i], true)?;
            let told = self.chat(&messages[..=i], false)?;
            let Some(answer) = told.strip_prefix(&asked).filter(|_| asked.len() >= done) else {
                return Err(Error::TurnsRewritten { turn: i });
            };
            let begun = done > 0 || self.begun(&asked) || !self.processor.begins();
            lesson.push(&self.tokens(&expanded(&asked[done..])?, !begun)?, false);
            let (answer, ended) = match answer.find(&end.1) {
                Some(at) => (&answer[..at], at + end.1.len()),
                None => (answer.trim_end(), answer.len()),
            };
            lesson.push(&self.tokens(answer, false)?, true);
            lesson.push(&[end.0], true);
            done = asked.len() + ended;
        }
        self.fits(lesson)
    }

    /// A question with its pictures marked, for a model without a chat template.
    pub(super) fn marked(&self, question: &Message, pictures: usize) -> String {
        match question.content {
            Content::Parts(_) if pictures == 1 => self.processor.place(&text_of(question)),
            _ => text_of(&self.as_text(question)),
        }
    }

    /// The token that ends an answer, and how the chat template writes it.
    fn end_token(&self) -> Result<(i64, String), Error> {
        let id = self.tokenizer.eos_id().ok_or(Error::NoEnd)?;
        Ok((id, self.tokenizer.id_to_token(id).unwrap_or_default()))
    }

    fn fits(&self, lesson: Lesson) -> Result<Lesson, Error> {
        let (tokens, context) = (lesson.ids.len(), self.plan.spec.text.context);
        if tokens > context {
            return Err(Error::Context { tokens, context });
        }
        Ok(lesson)
    }
}

fn text_of(message: &Message) -> String {
    match &message.content {
        Content::Text(text) => text.clone(),
        Content::Parts(parts) => {
            let text = |part: &Part| match part {
                Part::Text { text } => Some(text.clone()),
                Part::Image => None,
            };
            parts.iter().filter_map(text).collect()
        }
    }
}
