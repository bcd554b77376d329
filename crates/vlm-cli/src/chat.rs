//! `vlm chat`.

use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use vlm_encoders::image::RgbImage;
use vlm_encoders::text::Message;
use vlm_fusion::decode::Sampling;
use vlm_nn::Cache;

use crate::adapter::AdapterArgs;
use crate::generate::{Looked, SamplingArgs, Speaker, say};
use crate::output;

/// What can be said to the program instead of the model.
const HELP: &str =
    "/image FILE shows a picture with your next message, /reset begins anew, /quit ends";

/// Arguments of `vlm chat`.
#[derive(clap::Args)]
pub struct Args {
    /// The model folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    #[command(flatten)]
    adapter: AdapterArgs,
    /// A picture to begin with.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// What the model is told before the conversation.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Talks until the input ends.
pub fn run(args: &Args, device: &Device) -> Result<()> {
    let sampling = args.sampling.read(&args.model)?;
    let speaker = Speaker::open(&args.model, args.adapter.worn(), device)?;
    if !speaker.tokenizer().can_chat() {
        bail!(
            "{}: has no chat template; use vlm generate --raw for a model that was not trained to chat",
            args.model.display()
        );
    }
    let mut chat = Chat::new(args, &speaker, &sampling);
    if let Some(path) = &args.image {
        chat.image(path)?;
    }
    // Without a terminal nobody is there to be asked again: the first error ends it.
    let asked = std::io::stdin().is_terminal();
    if asked {
        output::note(HELP);
    }
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if asked {
            output::ask("> ");
        }
        let Some(line) = lines.next() else { return Ok(()) };
        let line = line.context("stdin")?;
        match chat.hear(line.trim()) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) if asked => output::note(&format!("error: {error:#}")),
            Err(error) => return Err(error),
        }
    }
}

/// A conversation.
struct Chat<'a> {
    args: &'a Args,
    speaker: &'a Speaker,
    sampling: &'a Sampling,
    messages: Vec<Message>,
    /// Of all messages, in order.
    pictures: Vec<RgbImage>,
    looked: Looked,
    /// How many of them wait for the next message.
    waiting: usize,
    cache: Cache,
    /// The tokens in it.
    read: Vec<i64>,
}

impl<'a> Chat<'a> {
    fn new(args: &'a Args, speaker: &'a Speaker, sampling: &'a Sampling) -> Self {
        let mut chat = Chat {
            args,
            speaker,
            sampling,
            messages: Vec::new(),
            pictures: Vec::new(),
            looked: Looked::default(),
            waiting: 0,
            cache: Cache::new(),
            read: Vec::new(),
        };
        chat.reset();
        chat
    }

    fn reset(&mut self) {
        let system = self.args.system.iter().map(|text| Message::text("system", text));
        self.messages = system.collect();
        (self.pictures, self.waiting) = (Vec::new(), 0);
        self.looked = Looked::default();
        (self.cache, self.read) = (Cache::new(), Vec::new());
    }

    fn image(&mut self, path: &Path) -> Result<()> {
        let picture = self.speaker.picture(path)?;
        self.pictures.push(picture);
        self.waiting += 1;
        Ok(())
    }

    /// A line of input; `false` ends the conversation.
    fn hear(&mut self, line: &str) -> Result<bool> {
        let Some(command) = line.strip_prefix('/') else {
            if !line.is_empty() {
                self.answer(line)?;
            }
            return Ok(true);
        };
        let (word, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (word, rest.trim()) {
            ("quit", "") => return Ok(false),
            ("reset", "") => self.reset(),
            ("image", path) if !path.is_empty() => self.image(path.as_ref())?,
            _ => bail!("`/{command}` is no command; {HELP}"),
        }
        Ok(true)
    }

    fn answer(&mut self, text: &str) -> Result<()> {
        let before = self.pictures.len() - self.waiting;
        self.messages.push(Speaker::message(text, self.waiting));
        let said = self.say();
        match said {
            Ok(text) => {
                self.messages.push(Message::text("assistant", text));
                self.waiting = 0;
                Ok(())
            }
            Err(error) => {
                // As if nothing had been said; a picture can be shown again.
                self.messages.pop();
                self.pictures.truncate(before);
                self.waiting = 0;
                self.looked = Looked::default();
                Err(error)
            }
        }
    }

    fn say(&mut self) -> Result<String> {
        let mut prompt = self.speaker.chat(&self.messages, &self.pictures, &mut self.looked)?;
        let ids = prompt.ids[0].clone();
        let same = self.read.iter().zip(&ids).take_while(|(a, b)| a == b).count();
        // At least one token has to be read for there to be a next one; a prefix that sees itself
        // both ways is another one with each message.
        let same = if prompt.prefix.is_some() { 0 } else { same.min(ids.len() - 1) };
        let same = self.cache.truncate(same);
        self.read.truncate(same);
        prompt.rows = prompt.rows.narrow(1, same, ids.len() - same);
        let stops = &self.args.sampling.stop;
        let said =
            say(self.speaker, &mut self.cache, &prompt, self.sampling, stops, &mut output::piece);
        // Whatever became of it, this is what the cache has seen.
        let answer = said.as_ref().map(|said| said.ids.clone()).unwrap_or_default();
        let seen = self.cache.tokens();
        self.read = ids.into_iter().chain(answer).take(seen).collect();
        let kept = self.cache.truncate(self.read.len());
        self.read.truncate(kept);
        let said = said?;
        output::line("")?;
        Ok(said.text)
    }
}
