//! The model: an image tower, a fusion and a decoder.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use vlm_encoders::image::Pixels;
use vlm_encoders::{TextTower, VisionTower, batch_pixels};
use vlm_nn::Pass;
use vlm_nn::adapter::{Entries, Memory, memory};

use crate::Error;
use crate::decode::{Decode, Prompt};
use crate::fuse::{Beside, Fusion, GatedBlocks, Question};
use crate::prompt::Prepared;
use crate::spec::{GenerativeSpec, Reading};

/// Pictures that go through the image tower together.
const TOGETHER: usize = 8;

/// A generative vision-language model.
#[derive(Module, Debug)]
pub struct GenerativeModel {
    /// Pictures.
    pub vision: VisionTower,
    /// From pictures to the decoder.
    pub fusion: Fusion,
    /// The decoder.
    pub text: TextTower,
    patch: usize,
    divide: Option<f64>,
    image_token: i64,
    vocabulary: usize,
    prefix: bool,
    reads_question: bool,
    /// Rows of a picture that stands beside the text.
    each: usize,
    #[module(skip)]
    reading: Reading,
}

impl GenerativeModel {
    /// A blank model.
    ///
    /// # Errors
    /// If the fusion's choices fit no module.
    pub fn new(spec: &GenerativeSpec, device: &Device) -> Result<Self, Error> {
        let text_width = spec.text.shape.width;
        Ok(GenerativeModel {
            vision: VisionTower::new(&spec.vision, device),
            fusion: Fusion::new(
                &spec.fusion,
                spec.fused_width(),
                text_width,
                spec.text.blocks.len(),
                device,
            )?,
            text: TextTower::new(&spec.text, device),
            patch: spec.vision.patch,
            divide: spec.divide,
            image_token: spec.image_token,
            vocabulary: spec.text.vocabulary,
            prefix: spec.prefix,
            reads_question: spec.fusion.reads_question(),
            each: spec.fusion.rows_beside(),
            reading: spec.reading.clone(),
        })
    }

    /// The token that stands for a row of a picture.
    pub fn image_token(&self) -> i64 {
        self.image_token
    }

    /// Whether the tokens of a prompt see each other both ways.
    pub fn prefix(&self) -> bool {
        self.prefix
    }

    /// Whether what a picture becomes depends on the question.
    pub fn reads_question(&self) -> bool {
        self.reads_question
    }

    /// The blocks that look at pictures beside the text, of a model that has no rows of pictures
    /// among those of the text.
    pub fn gates(&self) -> Option<&GatedBlocks> {
        match &self.fusion {
            Fusion::Gated(fusion) => Some(&fusion.gates),
            _ => None,
        }
    }

    /// What an adapter keeps of pictures beside the decoder's feed-forwards; what [`fuse`](Self::fuse) gives
    /// then is what it sees, as it is, and texts have no tokens for pictures.
    pub fn memory(&self) -> Option<&Memory> {
        memory(&self.text.tokens)
    }

    /// What texts find beside the feed-forwards, of what [`fuse`](Self::fuse) gave of the picture of each.
    ///
    /// # Errors
    /// [`Error::Slots`] if a text has pictures of more rows than there are slots.
    pub fn entries(&self, pictures: &[Option<Tensor<2>>]) -> Result<Option<Entries>, Error> {
        let Some(memory) = self.memory() else { return Ok(None) };
        let rows = pictures.iter().flatten().map(|picture| picture.dims()[0]).max().unwrap_or(0);
        let slots = memory.slots();
        if rows > slots {
            return Err(Error::Slots { rows, slots });
        }
        Ok(Some(memory.entries(pictures, &self.device())))
    }

    /// What the fusion sees of pictures: `[pictures, channels, height, width]` to
    /// `[pictures, tokens, width]`.
    pub fn look_at(&self, pixels: Tensor<4>) -> Tensor<3> {
        let (depths, skip_first) = match &self.reading {
            Reading::Last => return self.vision.last_state(pixels),
            Reading::Layers { depths, skip_first } => (depths, *skip_first),
        };
        let mut states = self.vision.states_at(pixels, depths);
        let state = if states.len() == 1 { states.remove(0) } else { Tensor::cat(states, 2) };
        let tokens = state.dims()[1];
        if skip_first { state.narrow(1, 1, tokens - 1) } else { state }
    }

    /// From what [`look_at`](Self::look_at) gives of pictures of a height and width to rows that
    /// take the place of tokens' rows, `[pictures, rows, text width]`; of [gated](Self::gates)
    /// cross-attention to what is looked at, `[pictures, rows, vision width]`. A fusion that
    /// [reads](Self::reads_question) the question needs it, for each picture or for all.
    pub fn fuse(
        &self,
        seen: Tensor<3>,
        size: (usize, usize),
        question: Option<Question>,
    ) -> Tensor<3> {
        if self.memory().is_some() {
            return seen;
        }
        let rows = self.fusion.fuse(seen, self.grid(size), question);
        match self.divide {
            Some(divisor) => rows / divisor,
            None => rows,
        }
    }

    /// Rows and columns of patches of a picture of that height and width.
    pub(crate) fn grid(&self, (height, width): (usize, usize)) -> (usize, usize) {
        (height / self.patch, width / self.patch)
    }

    /// What [`fuse`](Self::fuse) makes of prepared pictures, `[rows, width]` for all, in order; of a model that
    /// does not [read](Self::reads_question) the question.
    ///
    /// # Errors
    /// If the tower does not take a picture of that size.
    pub fn picture_rows(&self, pictures: &[Pixels]) -> Result<Option<Tensor<2>>, Error> {
        self.picture_rows_for(pictures, None)
    }

    /// The same for a question, whose tokens have these rows, `[1, tokens, text width]`.
    ///
    /// # Errors
    /// If the tower does not take a picture of that size.
    pub fn picture_rows_for(
        &self,
        pictures: &[Pixels],
        question: Option<Tensor<3>>,
    ) -> Result<Option<Tensor<2>>, Error> {
        let mut parts = Vec::new();
        for same in pictures.chunk_by(|a, b| a.size() == b.size()) {
            let size = same[0].size();
            if !self.vision.takes(size) {
                let (height, width) = size;
                return Err(vlm_encoders::Error::PictureSize { height, width }.into());
            }
            for some in same.chunks(TOGETHER) {
                let question = question.as_ref().map(|rows| {
                    let [_, tokens, width] = rows.dims();
                    (rows.clone().expand([some.len(), tokens, width]), None)
                });
                let seen = self.look_at(batch_pixels(some, &self.device()));
                let rows = self.fuse(seen, size, question);
                let [pictures, tokens, width] = rows.dims();
                parts.push(rows.reshape([pictures * tokens, width]));
            }
        }
        Ok(match parts.len() {
            0 => None,
            1 => parts.pop(),
            _ => Some(Tensor::cat(parts, 0)),
        })
    }

    fn pictures_of(&self, prepared: &Prepared) -> Result<Option<Tensor<2>>, Error> {
        let question = self.reads_question.then(|| {
            let text = prepared.ids().iter().copied().filter(|id| *id != self.image_token);
            let text: Vec<i64> = text.collect();
            let shape = [1, text.len()];
            self.text.look_up(Tensor::from_data(TensorData::new(text, shape), &self.device()))
        });
        self.picture_rows_for(prepared.pictures(), question)
    }

    /// What stands for each token, `[tokens, text width]`: its row, or one of a picture, of which
    /// there are `[rows, text width]`.
    ///
    /// # Errors
    /// [`Error::PictureTokens`] if there are not as many as tokens for them.
    pub fn rows(&self, ids: &[i64], pictures: Option<Tensor<2>>) -> Result<Tensor<2>, Error> {
        let pictures = pictures.filter(|_| self.memory().is_none());
        let tokens = ids.iter().filter(|id| **id == self.image_token).count();
        let each = if self.gates().is_some() { self.each } else { 1 };
        let features = pictures.as_ref().map_or(0, |rows| rows.dims()[0] / each);
        if tokens != features {
            return Err(Error::PictureTokens { tokens, features });
        }
        let (count, device) = (ids.len(), self.device());
        let pictures = pictures.filter(|_| self.gates().is_none());
        // The token of pictures need not have a row of its own where it is never read.
        let hidden = |id: &i64| *id == self.image_token && pictures.is_some();
        let known = |id: &i64| if hidden(id) { 0 } else { *id };
        let known: Vec<i64> = ids.iter().map(known).collect();
        if let Some(&id) = known.iter().find(|id| !(0..self.vocabulary as i64).contains(*id)) {
            return Err(Error::UnknownToken { row: 0, id, vocabulary: self.vocabulary });
        }
        let known: Tensor<2, Int> = Tensor::from_data(TensorData::new(known, [1, count]), &device);
        let rows = self.text.look_up(known);
        let width = rows.dims()[2];
        let rows = rows.reshape([count, width]);
        let Some(pictures) = pictures else { return Ok(rows) };
        let mut next = count as i64..;
        let places: Vec<i64> = (0..count as i64)
            .zip(ids)
            .map(
                |(place, id)| {
                    if *id == self.image_token { next.next().unwrap_or(place) } else { place }
                },
            )
            .collect();
        let places: Tensor<1, Int> = Tensor::from_data(TensorData::new(places, [count]), &device);
        Ok(Tensor::cat(vec![rows, pictures], 0).select(0, places))
    }

    /// Logits `[tokens, vocabulary]` of every position of a prepared prompt.
    ///
    /// # Errors
    /// As [`rows`](Self::rows).
    pub fn logits(&self, prepared: &Prepared) -> Result<Tensor<2>, Error> {
        let prompt = self.prompt(std::slice::from_ref(prepared))?;
        let tokens = prompt.rows.dims()[1];
        let mut pass = prompt.pass(0, tokens, self.text.context());
        let logits = self.text.logits(self.text.extend(prompt.rows.clone(), &mut pass));
        let vocabulary = logits.dims()[2];
        Ok(logits.reshape([tokens, vocabulary]))
    }

    /// Prepared prompts as [`generate`](crate::decode::generate) takes them.
    ///
    /// # Errors
    /// As [`rows`](Self::rows), and if there is no prompt or one of no tokens.
    pub fn prompt(&self, prepared: &[Prepared]) -> Result<Prompt, Error> {
        let pictures = prepared.iter().map(|one| self.pictures_of(one));
        let pictures: Vec<Option<Tensor<2>>> = pictures.collect::<Result<_, _>>()?;
        self.prompt_with(prepared.iter().map(|one| one.ids().to_vec()).collect(), pictures)
    }

    /// The same with the tokens of each text, and what [`fuse`](Self::fuse) made of its pictures,
    /// `[rows, width]`.
    ///
    /// # Errors
    /// As [`rows`](Self::rows), and if there is no prompt or one of no tokens.
    pub fn prompt_with(
        &self,
        ids: Vec<Vec<i64>>,
        pictures: Vec<Option<Tensor<2>>>,
    ) -> Result<Prompt, Error> {
        let both = ids.iter().zip(&pictures);
        let rows = both.map(|(ids, pictures)| self.rows(ids, pictures.clone()));
        let mut prompt = Prompt::of_rows(rows.collect::<Result<_, _>>()?, ids)?;
        prompt.prefix = self.prefix.then(|| prompt.ids.iter().map(Vec::len).collect());
        let places = prompt.ids.iter().map(|ids| {
            let all = ids.iter().enumerate().filter(|(_, id)| **id == self.image_token);
            all.map(|(place, _)| place).collect()
        });
        prompt.memory = self.entries(&pictures)?;
        prompt.beside = self.beside(pictures.into_iter().flatten().collect(), places.collect());
        Ok(prompt)
    }

    /// Pictures beside a batch of texts, of a model that looks at them there: what
    /// [`fuse`](Self::fuse) made of them, in order, and for each text the positions from which on
    /// each is seen.
    pub fn beside(&self, pictures: Vec<Tensor<2>>, places: Vec<Vec<usize>>) -> Option<Beside> {
        let gates = self.gates()?;
        let memories = match pictures.is_empty() {
            true => Tensor::zeros([0, self.each, 1], &self.device()),
            false => {
                let rows = Tensor::cat(pictures, 0);
                let [all, width] = rows.dims();
                rows.reshape([all / self.each, self.each, width])
            }
        };
        Some(Beside::new(gates, memories, places))
    }
}

impl Decode for GenerativeModel {
    fn look_up(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.text.look_up(ids)
    }

    fn extend(&self, rows: Tensor<3>, pass: &mut Pass) -> Tensor<3> {
        self.text.extend(rows, pass)
    }

    fn logits(&self, states: Tensor<3>) -> Tensor<3> {
        self.text.logits(states)
    }

    fn context(&self) -> usize {
        self.text.context()
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn device(&self) -> Device {
        self.text.tokens.device()
    }
}

/// How many rows the fusion of a spec makes of a picture of this height and width.
pub(crate) fn rows_of(spec: &GenerativeSpec, size: (usize, usize)) -> usize {
    if spec.memory {
        return 0;
    }
    let patch = spec.vision.patch;
    spec.fusion.rows(spec.seen_tokens(size), (size.0 / patch, size.1 / patch))
}
