//! Retrieval of texts by image and of images by text: recall at K and ranks.
//!
//! The rank of a query is that of its best true candidate: 1 + the number of candidates with a
//! strictly greater score. This is generous to ties: a collapsed model, whose scores are all
//! equal, ranks everything first. [`Direction::tied`] counts the queries where a tie helped.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::Error;

const IMAGE_TO_TEXT: &str = "image to text";
const TEXT_TO_IMAGE: &str = "text to image";

/// How well images find their texts and texts their images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retrieval {
    /// The images are the queries: a hit if any of the image's texts is in the first K.
    pub image_to_text: Direction,
    /// The texts are the queries: a hit if the text's image (any, if several share it) is.
    pub text_to_image: Direction,
}

/// The figures of one direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Direction {
    /// Queries measured. Those without a true candidate are not, but stand as candidates of the
    /// other direction.
    pub queries: usize,
    /// In the order in which they were asked for.
    pub recalls: Vec<Recall>,
    /// The middle rank (from 1), or the mean of the two in the middle.
    pub median_rank: f64,
    /// The mean rank (from 1).
    pub mean_rank: f64,
    /// Queries whose best true candidate has the very score of a false one.
    pub tied: usize,
}

/// The share of queries that find a true candidate among their first `k`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recall {
    /// How many candidates are looked at.
    pub k: usize,
    /// From 0 to 1.
    pub share: f64,
}

/// Measures a table of scores.
///
/// - `scores: [images, texts]` row by row, higher is better
/// - `truth`: for each image the positions of its texts, from 0
/// - `ks`: where to measure recall; 1, 5 and 10 as a rule
///
/// # Errors
/// [`Error::Table`] if the scores do not divide into `truth.len()` rows, [`Error::Answer`] for a
/// text out of range, [`Error::NotANumber`] for a NaN, [`Error::NothingToMeasure`] if no image
/// has a text.
pub fn recall_at(scores: &[f32], truth: &[Vec<usize>], ks: &[usize]) -> Result<Retrieval, Error> {
    let images = truth.len();
    let texts = scores.len().checked_div(images).unwrap_or(0);
    if images * texts != scores.len() {
        return Err(Error::Table { values: scores.len(), rows: images, columns: texts });
    }
    let [texts_of, images_of] = tables(truth, texts)?;
    let mut by_image = Tally::new(IMAGE_TO_TEXT);
    for (i, truth) in texts_of.iter().enumerate() {
        by_image.add(i, truth, texts, |j| scores[i * texts + j])?;
    }
    let mut by_text = Tally::new(TEXT_TO_IMAGE);
    for (j, truth) in images_of.iter().enumerate() {
        by_text.add(j, truth, images, |i| scores[i * texts + j])?;
    }
    Ok(Retrieval { image_to_text: by_image.finish(ks)?, text_to_image: by_text.finish(ks)? })
}

/// Measures features, `block` queries at a time, so that no more than
/// `block · max(images, texts)` scores exist at once.
///
/// `image: [images, dim]`, `text: [texts, dim]`, normalised; the score is their product. `truth`
/// and `ks` as in [`recall_at`]; a `block` of 0 counts as 1.
///
/// # Errors
/// As [`recall_at`], and [`Error::Device`] if the scores cannot be read.
///
/// # Panics
/// If the widths differ.
pub fn recall_of_features(
    image: Tensor<2>,
    text: Tensor<2>,
    truth: &[Vec<usize>],
    ks: &[usize],
    block: usize,
) -> Result<Retrieval, Error> {
    let ([images, dim], [texts, _]) = (image.dims(), text.dims());
    if images != truth.len() {
        return Err(Error::Table { values: images * texts, rows: truth.len(), columns: texts });
    }
    assert_eq!(dim, text.dims()[1], "retrieval: image and text features differ in width");
    let [texts_of, images_of] = tables(truth, texts)?;
    let by_image = in_blocks(IMAGE_TO_TEXT, image.clone(), text.clone(), &texts_of, block)?;
    let by_text = in_blocks(TEXT_TO_IMAGE, text, image, &images_of, block)?;
    Ok(Retrieval { image_to_text: by_image.finish(ks)?, text_to_image: by_text.finish(ks)? })
}

fn in_blocks(
    direction: &'static str,
    queries: Tensor<2>,
    candidates: Tensor<2>,
    truth: &[Vec<usize>],
    block: usize,
) -> Result<Tally, Error> {
    let ([rows, _], [columns, _]) = (queries.dims(), candidates.dims());
    let candidates = candidates.transpose();
    let block = block.max(1);
    let mut tally = Tally::new(direction);
    for start in (0..rows).step_by(block) {
        let count = block.min(rows - start);
        let scores = queries.clone().narrow(0, start, count).matmul(candidates.clone());
        let scores = scores.into_data().convert::<f32>().try_to_vec::<f32>();
        let scores = scores.map_err(|error| Error::Device(error.to_string()))?;
        for row in 0..count {
            let query = start + row;
            tally.add(query, &truth[query], columns, |j| scores[row * columns + j])?;
        }
    }
    Ok(tally)
}

/// The texts of each image and the images of each text, each position once.
fn tables(truth: &[Vec<usize>], texts: usize) -> Result<[Vec<Vec<usize>>; 2], Error> {
    let mut texts_of = truth.to_vec();
    let mut images_of = vec![Vec::new(); texts];
    for (row, answers) in texts_of.iter_mut().enumerate() {
        answers.sort_unstable();
        answers.dedup();
        for &answer in answers.iter() {
            let images: &mut Vec<usize> = images_of.get_mut(answer).ok_or(Error::Answer {
                row,
                answer,
                candidates: texts,
            })?;
            images.push(row);
        }
    }
    Ok([texts_of, images_of])
}

/// The ranks of the queries of one direction.
struct Tally {
    direction: &'static str,
    ranks: Vec<usize>,
    tied: usize,
}

impl Tally {
    fn new(direction: &'static str) -> Self {
        Self { direction, ranks: Vec::new(), tied: 0 }
    }

    fn add(
        &mut self,
        query: usize,
        truth: &[usize],
        candidates: usize,
        score: impl Fn(usize) -> f32,
    ) -> Result<(), Error> {
        if truth.is_empty() {
            return Ok(());
        }
        let best = truth.iter().map(|&j| score(j)).fold(f32::NEG_INFINITY, f32::max);
        let (mut greater, mut equal) = (0, 0);
        for candidate in 0..candidates {
            let score = score(candidate);
            if score.is_nan() {
                // Nothing is greater than a NaN, so a broken model would rank first.
                return Err(Error::NotANumber { direction: self.direction, query, candidate });
            }
            greater += usize::from(score > best);
            equal += usize::from(score == best);
        }
        let true_equal = truth.iter().filter(|&&j| score(j) == best).count();
        self.ranks.push(1 + greater);
        self.tied += usize::from(equal > true_equal);
        Ok(())
    }

    fn finish(mut self, ks: &[usize]) -> Result<Direction, Error> {
        let queries = self.ranks.len();
        if queries == 0 {
            return Err(Error::NothingToMeasure(self.direction));
        }
        self.ranks.sort_unstable();
        let share = |count: usize| count as f64 / queries as f64;
        let within = |k: usize| share(self.ranks.partition_point(|&rank| rank <= k));
        let middle = self.ranks[(queries - 1) / 2] + self.ranks[queries / 2];
        Ok(Direction {
            queries,
            recalls: ks.iter().map(|&k| Recall { k, share: within(k) }).collect(),
            median_rank: middle as f64 / 2.0,
            mean_rank: share(self.ranks.iter().sum()),
            tied: self.tied,
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    fn shares(direction: &Direction) -> Vec<f64> {
        direction.recalls.iter().map(|recall| recall.share).collect()
    }

    fn features<const N: usize>(rows: &[[f32; N]]) -> Tensor<2> {
        Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), N]), &Device::flex())
    }

    /// Three images, two captions each but the last. By hand: image 0's captions rank 3 and 2,
    /// image 1's 1 and 4, image 2's 5; so the best are 2, 1, 5. The texts find their images at
    /// ranks 3, 1, 2, 2, 3.
    #[test]
    fn several_captions_an_image() {
        let scores = [
            0.5, 0.7, 0.9, 0.3, 0.1, //
            0.6, 0.4, 0.8, 0.5, 0.7, //
            0.7, 0.6, 0.5, 0.9, 0.0,
        ];
        let truth = [vec![0, 1], vec![2, 3], vec![4]];
        let got = recall_at(&scores, &truth, &[1, 2, 5, 100]).unwrap();
        let i2t = &got.image_to_text;
        assert_eq!(shares(i2t), [1.0 / 3.0, 2.0 / 3.0, 1.0, 1.0]);
        assert_eq!((i2t.queries, i2t.median_rank, i2t.mean_rank, i2t.tied), (3, 2.0, 8.0 / 3.0, 0));
        let t2i = &got.text_to_image;
        assert_eq!(shares(t2i), [0.2, 0.6, 1.0, 1.0]);
        assert_eq!((t2i.queries, t2i.median_rank, t2i.mean_rank, t2i.tied), (5, 2.0, 2.2, 0));
    }

    #[test]
    fn a_tie_counts_for_the_true_one_and_is_reported() {
        let truth = [vec![0], vec![1], vec![2]];
        let got = recall_at(&[0.5; 9], &truth, &[0, 1]).unwrap().image_to_text;
        assert_eq!((shares(&got), got.mean_rank, got.tied), (vec![0.0, 1.0], 1.0, 3));
        // Two true captions with one score are no tie with a false one.
        let got = recall_at(&[0.5, 0.5, 0.1], &[vec![0, 1, 0]], &[1]).unwrap();
        assert_eq!((got.image_to_text.tied, got.text_to_image.tied), (0, 0));
        // A caption named twice is still one, and the other one ties with it.
        let got = recall_at(&[0.5, 0.5], &[vec![0, 0]], &[1]).unwrap();
        assert_eq!((got.image_to_text.tied, got.text_to_image.queries), (1, 1));
    }

    #[test]
    fn distractors_are_candidates_and_not_queries() {
        // Image 1 and text 1 belong to nothing, and both stand in the way of pair 0.
        let got = recall_at(&[0.4, 0.9, 0.8, 0.1], &[vec![0], vec![]], &[1]).unwrap();
        let want = (1, vec![0.0], 2.0, 2.0);
        for got in [got.image_to_text, got.text_to_image] {
            assert_eq!((got.queries, shares(&got), got.median_rank, got.mean_rank), want);
        }
    }

    #[test]
    fn blocks_give_what_the_table_gives() {
        let images = [[1., 0.], [0.6, 0.8], [0., 1.]];
        let texts = [[0.8, 0.6], [0.6, 0.8], [0., 1.], [1., 0.], [-1., 0.]];
        let truth = [vec![0, 4], vec![1], vec![3, 2]];
        let dot = |a: &[f32; 2], b: &[f32; 2]| a[0] * b[0] + a[1] * b[1];
        let scores: Vec<f32> =
            images.iter().flat_map(|i| texts.iter().map(move |t| dot(i, t))).collect();
        let whole = recall_at(&scores, &truth, &[1, 2]).unwrap();
        assert_eq!(shares(&whole.image_to_text), [2.0 / 3.0, 1.0]);
        for block in [0, 1, 2, 3, 5, 64] {
            let (image, text) = (features(&images), features(&texts));
            let got = recall_of_features(image, text, &truth, &[1, 2], block).unwrap();
            assert_eq!(got, whole, "block {block}");
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let message = |scores: &[f32], truth: &[Vec<usize>]| {
            recall_at(scores, truth, &[1]).unwrap_err().to_string()
        };
        assert!(message(&[0.0; 5], &[vec![0], vec![1]]).starts_with("5 scores do not make 2 rows"));
        assert!(message(&[0.0; 2], &[vec![2]]).starts_with("item 0: the true answer 2"));
        let nan = message(&[0.0, f32::NAN], &[vec![0]]);
        assert!(nan.starts_with("image to text: the score of query 0 and candidate 1 is NaN"));
        assert!(message(&[0.0; 2], &[vec![]]).contains("nothing to measure"));
        assert!(message(&[], &[]).contains("nothing to measure"));
        let one = features(&[[1., 0.]]);
        assert!(recall_of_features(one.clone(), one, &[vec![0], vec![0]], &[1], 8).is_err());
    }
}
