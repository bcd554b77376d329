//! ROUGE-L (Lin 2004): the longest common subsequence of words.

/// Length of the longest common subsequence.
fn common(a: &[String], b: &[String]) -> usize {
    let mut lengths = vec![0; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        for (i, other) in b.iter().enumerate() {
            let above = lengths[i + 1];
            lengths[i + 1] = if word == other { diagonal + 1 } else { above.max(lengths[i]) };
            diagonal = above;
        }
    }
    lengths[b.len()]
}

/// ROUGE-L of one caption from 0 to 1 as pycocoevalcap computes it: the best precision and the best
/// recall over all references, with recall weighing 1.2 times as much. A corpus has the mean.
///
/// Takes lists of words, such as [`words`](super::words()) makes.
pub fn rouge_l(predicted: &[String], references: &[Vec<String>]) -> f64 {
    const BETA: f64 = 1.2;
    let (mut precision, mut recall) = (0.0f64, 0.0f64);
    for reference in references {
        let common = common(reference, predicted) as f64;
        precision = precision.max(common / predicted.len().max(1) as f64);
        recall = recall.max(common / reference.len().max(1) as f64);
    }
    if precision == 0.0 || recall == 0.0 {
        return 0.0;
    }
    (1.0 + BETA * BETA) * precision * recall / (recall + BETA * BETA * precision)
}

/// ROUGE-L's F1 of one text from 0 to 1 as the package rouge-score computes it, without stemming:
/// its own words (runs of a-z and 0-9), and the best of the references.
pub fn rouge_l_f1(predicted: &str, references: &[String]) -> f64 {
    let words = |text: &str| -> Vec<String> {
        let text = text.to_lowercase();
        let runs = text.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit());
        runs.filter(|run| !run.is_empty()).map(str::to_owned).collect()
    };
    let predicted = words(predicted);
    let one = |reference: &String| {
        let reference = words(reference);
        let common = common(&reference, &predicted) as f64;
        if common == 0.0 {
            return 0.0;
        }
        let (precision, recall) =
            (common / predicted.len() as f64, common / reference.len() as f64);
        2.0 * precision * recall / (precision + recall)
    };
    references.iter().map(one).fold(0.0, f64::max)
}
