use std::path::PathBuf;

/// What can go wrong with contrastive models and their measures. Every message is one line
/// that names the place and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file of prompt templates cannot be read.
    #[error(
        "{}: cannot read the prompt templates: {source}; give `clip80`, `none`, or a text file with one template a line",
        path.display()
    )]
    TemplateFile {
        /// The file, as it was given.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A template has no place for the class name, or several.
    #[error(
        "{}:{line}: a template needs exactly one {{}} for the class name, and `{text}` has {found}",
        path.display()
    )]
    Placeholder {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The template as it stands there.
        text: String,
        /// How many `{}` it has.
        found: usize,
    },
    /// The file of prompt templates has none.
    #[error("{}: no template in it; write one a line, such as `a photo of a {{}}.`", .0.display())]
    NoTemplate(PathBuf),
    /// A table of scores is not rectangular.
    #[error("{values} scores do not make {rows} rows of {columns}; give one score for each pair")]
    Table {
        /// Scores given.
        values: usize,
        /// Rows wanted.
        rows: usize,
        /// Columns wanted.
        columns: usize,
    },
    /// A true answer that is not among the candidates.
    #[error(
        "item {row}: the true answer {answer} is not among the {candidates} candidates (they count from 0)"
    )]
    Answer {
        /// The image or row, from 0.
        row: usize,
        /// The answer that the caller named.
        answer: usize,
        /// How many candidates there are.
        candidates: usize,
    },
    /// A score that is not a number, which has no rank.
    #[error(
        "{direction}: the score of query {query} and candidate {candidate} is NaN; look for NaN in the features or the weights"
    )]
    NotANumber {
        /// `image to text` or `text to image`.
        direction: &'static str,
        /// The query, from 0.
        query: usize,
        /// The candidate, from 0.
        candidate: usize,
    },
    /// There is nothing to measure.
    #[error("{0}: nothing to measure; give at least one item with a true answer")]
    NothingToMeasure(&'static str),
    /// A model whose features are no numbers.
    #[error(
        "the model's features of the {0} are no numbers; its weights are damaged or a training went wrong: fetch or train it again"
    )]
    Features(&'static str),
    /// Features do not come back from the device as 32-bit floats.
    #[error("cannot read scores from the device: {0}")]
    Device(String),
    /// A model folder, picture or tokenizer failed.
    #[error(transparent)]
    Model(#[from] vlm_encoders::Error),
    /// No label to choose among.
    #[error("no labels; give some, such as --labels cat,dog, or a file with one a line")]
    NoLabels,
    /// No text to embed.
    #[error("no texts; give at least one")]
    NoTexts,
    /// No picture to embed.
    #[error("no pictures; give at least one")]
    NoPictures,
    /// An index cannot be kept where it should be.
    #[error("{}: cannot keep an index there ({source}); give a folder that can be written to with --index", path.display())]
    IndexPlace {
        /// The folder of the index.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An index of other pictures.
    #[error("{}: is the index of the pictures in {}; give another folder with --index", index.display(), pictures.display())]
    OtherPictures {
        /// The folder of the index.
        index: PathBuf,
        /// The folder of its pictures.
        pictures: PathBuf,
    },
    /// A query that is no feature of the model of an index.
    #[error(
        "the index has features of {index} values and the query {query}; query it with the model that made it"
    )]
    Width {
        /// Values of a feature in the index.
        index: usize,
        /// Values of the query.
        query: usize,
    },
    /// A method that needs a text tower, and a model without one.
    #[error(
        "{method} compares pictures with texts, and this model has no text tower that shares their space; use a dual encoder without --layer and --pool, or leave {method} out of --methods"
    )]
    NoText {
        /// The method.
        method: &'static str,
    },
    /// A class with fewer pictures than labels are wanted.
    #[error(
        "class `{class}` has {there} training pictures, and {shots} labels a class are wanted; lower --shots, or leave small classes out with --min-pictures"
    )]
    FewPictures {
        /// Its name.
        class: String,
        /// What it has.
        there: usize,
        /// What is wanted.
        shots: usize,
    },
}
