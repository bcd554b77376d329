//! What the model foretells of rows.

use burn::tensor::{Device, Int, Tensor, TensorData};
use vlm_nn::adapter::Entries;
use vlm_nn::ops::class_cross_entropy;
use vlm_nn::{Between, Pass};

use super::pack::{Row, mask};
use crate::decode::Decode;
use crate::fuse::Question;
use crate::masks::Sight;
use crate::{Error, GenerativeModel};

/// Pictures of one height and width, as the fusion takes them.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `[pictures, tokens, width]`, what [`GenerativeModel::look_at`] says.
    pub states: Tensor<3>,
    /// Height and width of the pictures in pixels.
    pub size: (usize, usize),
    /// How many of them each row is about.
    pub of_rows: Vec<usize>,
}

impl GenerativeModel {
    /// Logits of the places where tokens are foretold, row after row, `[answers, vocabulary]`.
    ///
    /// `pictures` are those of all rows, in order; `prefix` tells for each row how many tokens see
    /// each other both ways.
    ///
    /// # Errors
    /// [`Error::PictureTokens`] if the pictures have another number of rows than there are tokens
    /// for them.
    pub fn foretell(
        &self,
        rows: &[Row],
        pictures: Option<Seen>,
        prefix: Option<&[usize]>,
    ) -> Result<Tensor<2>, Error> {
        let device = self.device();
        let tokens = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        let ids: Vec<i64> = rows.iter().flat_map(|row| filled(&row.ids, 0, tokens)).collect();
        let memory = self.remembered(rows.len(), pictures.as_ref())?;
        let pictures = pictures.filter(|_| memory.is_none()).map(|seen| {
            let question = self.reads_question().then(|| self.questions(rows, &seen));
            let rows = self.fuse(seen.states, seen.size, question);
            let [pictures, each, width] = rows.dims();
            rows.reshape([pictures * each, width])
        });
        let places = rows.iter().map(|row| {
            let all = row.ids.iter().zip(&row.positions);
            all.filter(|(id, _)| **id == self.image_token()).map(|(_, place)| *place).collect()
        });
        let beside = self.beside(pictures.iter().cloned().collect(), places.collect());
        let x = self.rows(&ids, pictures)?;
        let width = x.dims()[1];
        let x = x.reshape([rows.len(), tokens, width]);
        let mask = mask(rows, prefix, tokens, &device);
        let mut pass = Pass::new()
            .with_between(beside.as_ref().map(|b| b as &dyn Between))
            .with_memory(memory.as_ref());
        if mask.is_some() {
            let positions =
                rows.iter().map(|row| filled(&row.positions, 0, tokens).collect()).collect();
            pass = pass.with_positions(positions).with_mask(mask).open();
        }
        let states = self.text.extend(x, &mut pass).reshape([rows.len() * tokens, width]);
        let places: Vec<i64> = rows
            .iter()
            .enumerate()
            .flat_map(|(i, row)| row.answers.iter().map(move |(place, _)| i * tokens + place))
            .map(|place| place as i64)
            .collect();
        let answers = places.len();
        let places: Tensor<1, Int> = Tensor::from_data(TensorData::new(places, [answers]), &device);
        let logits = self.text.logits(states.select(0, places).reshape([1, answers, width]));
        let vocabulary = logits.dims()[2];
        Ok(logits.reshape([answers, vocabulary]))
    }

    /// What the feed-forwards find of the pictures of rows, of a model with an adapter that keeps them there.
    fn remembered(&self, rows: usize, seen: Option<&Seen>) -> Result<Option<Entries>, Error> {
        let mut pictures = vec![None; rows];
        if let (Some(seen), true) = (seen, self.memory().is_some()) {
            let [_, each, width] = seen.states.dims();
            let mut from = 0;
            for (picture, count) in pictures.iter_mut().zip(&seen.of_rows) {
                if *count > 0 {
                    let own = seen.states.clone().narrow(0, from, *count);
                    *picture = Some(own.reshape([count * each, width]));
                }
                from += count;
            }
        }
        self.entries(&pictures)
    }

    /// What is asked of each picture, for a fusion that reads it: the row's text up to its first
    /// answer, as in a prompt.
    fn questions(&self, rows: &[Row], seen: &Seen) -> Question {
        let device = self.device();
        let image = |id: &&i64| **id == self.image_token();
        let of_row = |row: &Row| row.ids.iter().filter(image).count();
        let all: usize = rows.iter().map(of_row).sum();
        let each = (all / seen.states.dims()[0].max(1)).max(1);
        let texts: Vec<Vec<i64>> = rows
            .iter()
            .flat_map(|row| {
                let end = row.answers.first().map_or(row.ids.len(), |(place, _)| place + 1);
                let text = row.ids[..end].iter().filter(|id| !image(id)).copied().collect();
                std::iter::repeat_n(text, of_row(row) / each)
            })
            .collect();
        let tokens = texts.iter().map(Vec::len).max().unwrap_or(0);
        let shape = [texts.len(), tokens];
        let ids: Vec<i64> = texts.iter().flat_map(|text| filled(text, 0, tokens)).collect();
        let seen = Sight::of([texts.len(), 1, tokens], |row, _, key| key < texts[row].len());
        let rows = self.text.look_up(Tensor::from_data(TensorData::new(ids, shape), &device));
        (rows, seen.mask(&device))
    }
}

/// The tokens that are foretold, row after row.
pub fn answers(rows: &[Row]) -> Vec<i64> {
    rows.iter().flat_map(|row| row.answers.iter().map(|(_, id)| *id)).collect()
}

/// The loss of each foretold token, `[answers]`, in nats.
pub fn losses(logits: Tensor<2>, answers: &[i64], device: &Device) -> Tensor<1> {
    let classes = TensorData::new(answers.to_vec(), [answers.len()]);
    class_cross_entropy(logits, Tensor::from_data(classes, device))
}

fn filled<T: Copy>(list: &[T], with: T, length: usize) -> impl Iterator<Item = T> + '_ {
    list.iter().copied().chain(std::iter::repeat(with)).take(length)
}
