//! Texts to token ids and back.
//!
//! The `tokenizers` library does the work; here it gets one folder, one way to truncate, and
//! answers that say what was cut.

use std::path::Path;

use tokenizers::{EncodeInput, ModelWrapper, PostProcessor, TruncationDirection};

use super::chat::{Message, Template};
use super::classes;
use super::error::TokenizerError;
use super::files::{self, Files, MAIN};
use super::guard::{self, caught};
use super::settings::{Settings, Side};
use super::special::{self, SpecialIds};
use super::stream::TextStream;

/// A tokenizer in Hugging Face's layout.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: SpecialIds,
    padding_side: Side,
    truncation_side: Side,
    max_length: Option<usize>,
    /// Whether decoding takes out spaces before punctuation.
    tidies: bool,
    template: Option<Template>,
    files: Files,
}

/// One text as ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIds {
    /// With start and end tokens, at most as many as the context.
    pub ids: Vec<i64>,
    /// The segment of each id, as BERT counts them; 0 for a single text unless the tokenizer says
    /// otherwise.
    pub types: Vec<i64>,
    /// Whether some of the text was cut off to fit.
    pub truncated: bool,
}

/// How long the rows of a batch become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// As the longest of them.
    Longest,
    /// This many tokens; longer texts are truncated to it.
    Fixed(usize),
}

/// Several texts as ids, filled up with the pad token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// `[rows, cols]`.
    pub ids: Vec<i64>,
    /// `[rows, cols]`: true where there is a token of the text, its start and end included.
    pub mask: Vec<bool>,
    /// `[rows, cols]`: the segment of each id, as BERT counts them; 0 for the padding.
    pub types: Vec<i64>,
    /// Texts.
    pub rows: usize,
    /// Tokens of each.
    pub cols: usize,
    /// Texts of which something was cut off.
    pub truncated: usize,
}

impl Batch {
    /// Some of the texts, with all their columns.
    pub fn rows_of(&self, range: std::ops::Range<usize>) -> Batch {
        let cells = range.start * self.cols..range.end * self.cols;
        Batch {
            ids: self.ids[cells.clone()].to_vec(),
            mask: self.mask[cells.clone()].to_vec(),
            types: self.types[cells].to_vec(),
            rows: range.len(),
            cols: self.cols,
            truncated: 0,
        }
    }
}

impl Tokenizer {
    /// Reads a folder with a `tokenizer.json`.
    ///
    /// # Errors
    /// [`TokenizerError`]: the file is missing or not understood.
    pub fn from_dir(dir: &Path) -> Result<Self, TokenizerError> {
        Self::from_dir_with_ids(dir, SpecialIds::default())
    }

    /// [`Tokenizer::from_dir`], with ids (say, of a model's `config.json`) for the special tokens
    /// that the tokenizer's own files do not name.
    ///
    /// # Errors
    /// As [`Tokenizer::from_dir`].
    pub fn from_dir_with_ids(dir: &Path, fallback: SpecialIds) -> Result<Self, TokenizerError> {
        Self::from_files(files::read(dir)?, dir, fallback)
    }

    /// From the contents of files; `dir` stands in messages.
    pub(super) fn from_files(
        files: Files,
        dir: &Path,
        fallback: SpecialIds,
    ) -> Result<Self, TokenizerError> {
        let main =
            files.get(MAIN).ok_or_else(|| TokenizerError::Missing { dir: dir.to_owned() })?;
        let file = dir.join(MAIN);
        guard::check(main, &file)?;
        let settings = Settings::read(&files, dir)?;
        let fail = |detail| TokenizerError::File {
            file: file.clone(),
            detail: format!("not a tokenizer that can be read ({detail})"),
        };
        let inner = caught(|| {
            let mut inner = tokenizers::Tokenizer::from_bytes(main)?;
            // Both are done here; a file may carry what somebody once set.
            inner.with_padding(None);
            inner.with_truncation(None)?;
            classes::apply(&mut inner, &settings)?;
            Ok(inner)
        });
        let inner = inner.map_err(fail)?;
        let id_of = |token: &str| inner.token_to_id(token).map(i64::from);
        let special = special::find(&settings, dir, fallback, id_of)?;
        Ok(Self {
            inner,
            special,
            padding_side: settings.side("padding_side"),
            truncation_side: settings.side("truncation_side"),
            max_length: settings.max_length(),
            tidies: settings.flag("clean_up_tokenization_spaces").unwrap_or(false),
            template: Template::find(&files, &settings, dir)?,
            files,
        })
    }

    /// The contents of its files.
    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// Writes the tokenizer's files into a folder: those it was read from, unchanged, or those of a
    /// newly trained one.
    ///
    /// # Errors
    /// [`TokenizerError::Io`].
    pub fn save(&self, dir: &Path) -> Result<(), TokenizerError> {
        files::write(&self.files, dir)
    }

    /// One text as ids, with what the tokenizer puts before and after (CLIP: start and end). A text
    /// too long for `context_length` tokens loses its tail, or its head where
    /// [`truncation_side`](Self::truncation_side) says so; what is put around it stays.
    ///
    /// # Errors
    /// [`TokenizerError::ShortContext`], [`TokenizerError::Text`].
    pub fn encode(&self, text: &str, context_length: usize) -> Result<TokenIds, TokenizerError> {
        self.encoded(text, context_length, true)
    }

    /// [`Tokenizer::encode`] without anything put before or after: for texts that hold their special
    /// tokens themselves, as those of [`Tokenizer::chat`] do.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_bare(
        &self,
        text: &str,
        context_length: usize,
    ) -> Result<TokenIds, TokenizerError> {
        self.encoded(text, context_length, false)
    }

    fn encoded(
        &self,
        text: &str,
        context_length: usize,
        around: bool,
    ) -> Result<TokenIds, TokenizerError> {
        let processor = self.inner.get_post_processor().filter(|_| around);
        let special = processor.map_or(0, |p| p.added_tokens(false));
        if context_length == 0 || context_length < special {
            return Err(TokenizerError::ShortContext { context_length, special });
        }
        let room = context_length - special;
        let direction = match self.truncation_side {
            Side::Left => TruncationDirection::Left,
            Side::Right => TruncationDirection::Right,
        };
        let input: EncodeInput = text.into();
        let encoding = caught(|| {
            let mut encoding = self.inner.encode(input, false)?;
            let truncated = encoding.len() > room;
            encoding.truncate(room, 0, direction);
            // What was cut off would be given start and end tokens of its own.
            encoding.take_overflowing();
            Ok((self.inner.post_process(encoding, None, around)?, truncated))
        });
        let (encoding, truncated) =
            encoding.map_err(|detail| TokenizerError::Text { text: beginning(text), detail })?;
        let numbers = |list: &[u32]| list.iter().map(|&n| i64::from(n)).collect();
        Ok(TokenIds {
            ids: numbers(encoding.get_ids()),
            types: numbers(encoding.get_type_ids()),
            truncated,
        })
    }

    /// Several texts, each as [`Tokenizer::encode`], padded at the end, or at the beginning where
    /// [`padding_side`](Self::padding_side) says so.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`]; [`TokenizerError::NoPad`] if there is something to fill and
    /// nothing to fill it with.
    pub fn encode_batch<S: AsRef<str>>(
        &self,
        texts: &[S],
        context_length: usize,
        padding: Padding,
    ) -> Result<Batch, TokenizerError> {
        let context_length = match padding {
            Padding::Longest => context_length,
            Padding::Fixed(length) => length.min(context_length),
        };
        let encoded = texts
            .iter()
            .map(|text| self.encode(text.as_ref(), context_length))
            .collect::<Result<Vec<_>, _>>()?;
        let longest = encoded.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        let cols = match padding {
            Padding::Longest => longest,
            Padding::Fixed(length) => length,
        };
        let (mut ids, mut mask, mut types) = (Vec::new(), Vec::new(), Vec::new());
        for row in &encoded {
            let missing = cols - row.ids.len();
            let pad = match self.special.pad {
                Some(pad) => pad,
                None if missing == 0 => 0,
                None => return Err(TokenizerError::NoPad),
            };
            let before = if self.padding_side == Side::Left { missing } else { 0 };
            fill(&mut ids, &row.ids, before, missing, pad);
            fill(&mut types, &row.types, before, missing, 0);
            fill(&mut mask, &vec![true; row.ids.len()], before, missing, false);
        }
        let truncated = encoded.iter().filter(|row| row.truncated).count();
        Ok(Batch { ids, mask, types, rows: encoded.len(), cols, truncated })
    }

    /// Ids as text, without special tokens.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`], [`TokenizerError::Text`].
    pub fn decode(&self, ids: &[i64]) -> Result<String, TokenizerError> {
        self.decoded(ids, true)
    }

    /// Ids as text, special tokens included.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn decode_with_special(&self, ids: &[i64]) -> Result<String, TokenizerError> {
        self.decoded(ids, false)
    }

    /// For ids that come one by one.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(self)
    }

    fn decoded(&self, ids: &[i64], skip_special: bool) -> Result<String, TokenizerError> {
        let ids = ids.iter().map(|&id| self.known(id)).collect::<Result<Vec<_>, _>>()?;
        let text = self.joined(&ids, skip_special)?;
        let text = if self.has_word_ends() { text.trim().to_owned() } else { text };
        Ok(if self.tidies { tidied(&text) } else { text })
    }

    /// Ids of the vocabulary as text, without special tokens and before any tidying.
    pub(super) fn raw(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.joined(ids, true)
    }

    fn joined(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        let text = caught(|| self.inner.decode(ids, skip_special)).map_err(|detail| {
            TokenizerError::Text { text: format!("of ids {:?}", &ids[..ids.len().min(8)]), detail }
        })?;
        // CLIP's decoder leaves the end-of-word marks in; transformers replaces them afterwards.
        Ok(match self.word_end() {
            Some(mark) => text.replace(mark, " "),
            None => text,
        })
    }

    fn word_end(&self) -> Option<&str> {
        match self.inner.get_model() {
            ModelWrapper::BPE(bpe) => bpe.end_of_word_suffix.as_deref().filter(|m| !m.is_empty()),
            _ => None,
        }
    }

    fn has_word_ends(&self) -> bool {
        self.word_end().is_some()
    }

    /// An id as the library has it.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`].
    pub(super) fn known(&self, id: i64) -> Result<u32, TokenizerError> {
        u32::try_from(id)
            .ok()
            .filter(|n| self.inner.id_to_token(*n).is_some())
            .ok_or_else(|| TokenizerError::UnknownId { id, vocab_size: self.vocab_size() })
    }

    /// Whether decoding leaves this id out.
    pub(super) fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        added
            .get_added_tokens_decoder()
            .get(&id)
            .is_some_and(|t| added.is_special_token(&t.content))
    }

    /// The text that a model trained to chat expects for these messages, by the tokenizer's chat
    /// template. `add_generation_prompt` asks for the beginning of the answer. The text holds its
    /// special tokens: encode it with [`Tokenizer::encode_bare`].
    ///
    /// # Errors
    /// [`TokenizerError::NoTemplate`]; [`TokenizerError::Template`] if the template refuses the
    /// messages, is not valid, or takes too long.
    pub fn chat(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, TokenizerError> {
        let template = self.template.as_ref().ok_or(TokenizerError::NoTemplate)?;
        template.render(messages, add_generation_prompt)
    }

    /// Whether there is a template for [`Tokenizer::chat`].
    pub fn can_chat(&self) -> bool {
        self.template.is_some()
    }

    /// The token of an id, as it stands in the vocabulary.
    pub fn id_to_token(&self, id: i64) -> Option<String> {
        self.inner.id_to_token(u32::try_from(id).ok()?)
    }

    /// A name for any id: its token, or its number.
    pub fn shown(&self, id: i64) -> String {
        self.id_to_token(id).unwrap_or_else(|| format!("#{id}"))
    }

    /// The id of a token, as it stands in the vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<i64> {
        self.inner.token_to_id(token).map(i64::from)
    }

    /// Tokens of the vocabulary, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The longest text that the model was made for, in tokens, as `tokenizer_config.json` has it.
    pub fn max_length(&self) -> Option<usize> {
        self.max_length
    }

    /// Where rows are filled up: as `tokenizer_config.json` says, else at the end.
    pub fn padding_side(&self) -> Side {
        self.padding_side
    }

    /// Fills rows up on this side from now on.
    pub fn set_padding_side(&mut self, side: Side) {
        self.padding_side = side;
    }

    /// Where texts are cut: as `tokenizer_config.json` says, else at the end.
    pub fn truncation_side(&self) -> Side {
        self.truncation_side
    }

    /// Cuts texts on this side from now on.
    pub fn set_truncation_side(&mut self, side: Side) {
        self.truncation_side = side;
    }

    /// Id that starts a text.
    pub fn bos_id(&self) -> Option<i64> {
        self.special.bos
    }

    /// Id that ends a text.
    pub fn eos_id(&self) -> Option<i64> {
        self.special.eos
    }

    /// Id that fills a row.
    pub fn pad_id(&self) -> Option<i64> {
        self.special.pad
    }
}

/// Appends a row with `missing` fillings, `before` of them before it.
fn fill<T: Copy>(out: &mut Vec<T>, row: &[T], before: usize, missing: usize, with: T) {
    out.extend(std::iter::repeat_n(with, before));
    out.extend_from_slice(row);
    out.extend(std::iter::repeat_n(with, missing - before));
}

/// transformers' `clean_up_tokenization`, for vocabularies that set punctuation off by spaces.
fn tidied(text: &str) -> String {
    let mut text = text.to_owned();
    for (from, to) in [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ] {
        text = text.replace(from, to);
    }
    text
}

fn beginning(text: &str) -> String {
    text.chars().take(40).collect()
}
