//! Accuracy of answers as VQA v2 measures it (Antol et al. 2015; Goyal et al. 2017).

/// Signs that are taken out of an answer.
const SIGNS: &str = ";/[]\"{}()=+\\_-><@`,?!";

const NUMBERS: [(&str, &str); 12] = [
    ("none", "0"),
    ("zero", "0"),
    ("one", "1"),
    ("two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
    ("ten", "10"),
];

/// Contractions that are restored where an apostrophe is missing. The set is that of the reference
/// evaluation: what is not here is not restored there either.
const CONTRACTIONS: &str = "ain't aren't can't could've couldn't couldn't've didn't doesn't don't \
    hadn't hadn't've hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll \
    ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at \
    shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's \
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's \
    there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't \
    we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd \
    who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all \
    y'all'll y'all'd've you'd you'd've you'll you're you've";

/// A text as VQA's evaluation compares it: lower-cased, without punctuation and articles, number
/// words as digits, contractions with their apostrophe.
pub fn normalised(text: &str) -> String {
    words(&unpunctuated(&trimmed(text)))
}

fn trimmed(text: &str) -> String {
    text.replace(['\n', '\t'], " ").trim().to_owned()
}

/// Without punctuation: a sign beside a space is dropped, one between words becomes a space; all are
/// dropped where a comma parts digits. Periods go unless a digit follows.
fn unpunctuated(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let in_number =
        letters.windows(3).any(|w| w[0].is_numeric() && w[1] == ',' && w[2].is_numeric());
    let mut out = text.to_owned();
    for sign in SIGNS.chars() {
        let beside = text.contains(&format!("{sign} ")) || text.contains(&format!(" {sign}"));
        out = out.replace(sign, if beside || in_number { "" } else { " " });
    }
    let letters: Vec<char> = out.chars().collect();
    // The reference passes a flag in the place of a count, so that it stops there.
    const MOST: usize = 32;
    let mut gone = 0;
    let mut kept = String::with_capacity(out.len());
    for (i, letter) in letters.iter().enumerate() {
        let before_digit = letters.get(i + 1).is_some_and(|next| next.is_numeric());
        if *letter == '.' && !before_digit && gone < MOST {
            gone += 1;
        } else {
            kept.push(*letter);
        }
    }
    kept
}

/// Without articles, with digits and apostrophes.
fn words(text: &str) -> String {
    let text = text.to_lowercase();
    let words = text.split_whitespace().map(|word| {
        NUMBERS.iter().find(|(name, _)| *name == word).map_or(word, |(_, digit)| digit)
    });
    let words = words.filter(|word| !["a", "an", "the"].contains(word));
    words.map(contraction).collect::<Vec<_>>().join(" ")
}

/// The contraction that lacks one apostrophe, if it is one.
fn contraction(word: &str) -> &str {
    // The one that the reference has the other way round.
    if word == "somebody'd" {
        return "somebodyd";
    }
    let lacks_one = |whole: &&str| {
        whole.len() == word.len() + 1
            && whole.match_indices('\'').any(|(at, _)| {
                word.as_bytes()[..at] == whole.as_bytes()[..at]
                    && word.as_bytes()[at..] == whole.as_bytes()[at + 1..]
            })
    };
    CONTRACTIONS.split(' ').find(lacks_one).unwrap_or(word)
}

/// How right an answer is, from 0 to 1, given what several people answered: the mean, over leaving
/// out each of them, of matches with the others over three, at most 1.
///
/// As the official evaluation, the answer is [`normalised`] and theirs lose their punctuation
/// where they differ. With fewer than four people fewer matches are enough, and with one the
/// normalised texts must be equal.
pub fn vqa_accuracy(text: &str, answers: &[String]) -> f64 {
    let said = normalised(text);
    if let [only] = answers {
        return f64::from(u8::from(said == normalised(only)));
    }
    let differ = answers.iter().any(|answer| *answer != answers[0]);
    let matches = |answer: &&String| {
        if differ { unpunctuated(answer) == said } else { **answer == said }
    };
    let all = answers.iter().filter(matches).count();
    let needed = answers.len().saturating_sub(1).min(3) as f64;
    let sum: f64 = answers
        .iter()
        .map(|left_out| {
            let others = all - usize::from(matches(&left_out));
            (others as f64 / needed).min(1.0)
        })
        .sum();
    if answers.is_empty() { 0.0 } else { sum / answers.len() as f64 }
}

/// Whether an answer is one of those that are right, both [`normalised`].
pub fn exact_match(text: &str, answers: &[String]) -> bool {
    let said = normalised(text);
    answers.iter().any(|answer| normalised(answer) == said)
}
