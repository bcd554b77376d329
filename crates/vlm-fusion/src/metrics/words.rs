//! Captions as lists of words.

/// Abbreviations that keep their period.
const SHORT: [&str; 14] = [
    "mr.", "mrs.", "ms.", "dr.", "prof.", "st.", "jr.", "sr.", "vs.", "etc.", "inc.", "co.", "no.",
    "mt.",
];
/// Endings that are words of their own.
const CLITICS: [&str; 7] = ["n't", "'s", "'re", "'ve", "'ll", "'d", "'m"];
/// Words that are two, by where they are cut.
const JOINED: [(&str, usize); 8] = [
    ("cannot", 3),
    ("gonna", 3),
    ("gotta", 3),
    ("wanna", 3),
    ("gimme", 3),
    ("lemme", 3),
    ("'tis", 2),
    ("'twas", 2),
];

/// The words of a caption as pycocoevalcap has them: lower-cased and split as the Penn Treebank
/// does, without punctuation.
///
/// The reference runs Stanford's tokenizer (in Java) and drops punctuation. This gives the same for
/// ordinary captions: of 6,639 different ones of Tux Paint, Openclipart, emoji and scenes it splits
/// seven otherwise, with HTML's `&#39;`, an address, or letters that were garbled. It knows few
/// abbreviations.
pub fn words(caption: &str) -> Vec<String> {
    let mut words = Vec::new();
    for chunk in caption.to_lowercase().split_whitespace() {
        split(chunk, &mut words);
    }
    words
}

/// A bracket as the Treebank writes it; the reference drops them in capitals only, so that they
/// stay.
fn bracket(c: char) -> Option<&'static str> {
    Some(match c {
        '(' => "-lrb-",
        ')' => "-rrb-",
        '[' => "-lsb-",
        ']' => "-rsb-",
        '{' => "-lcb-",
        '}' => "-rcb-",
        _ => return None,
    })
}

/// Whether this never is part of a word, but ends it.
fn parts(c: char) -> bool {
    bracket(c).is_some() || "\"“”„«»`!?;…#".contains(c)
}

/// What stands as a word of its own, and what is dropped.
fn sign(c: char, words: &mut Vec<String>) {
    if let Some(name) = bracket(c) {
        words.push(name.to_owned());
    } else if !"\"“”„«»`'‘’!?;:,.-…–—".contains(c) {
        words.push(c.to_string());
    }
}

/// Splits what stands between spaces.
fn split(chunk: &str, words: &mut Vec<String>) {
    let mut start = 0;
    for (at, c) in chunk.char_indices().filter(|(_, c)| parts(*c)) {
        if at < start {
            continue;
        }
        word(&chunk[start..at], words);
        let calls = &chunk[at..];
        let calls = &calls[..calls.find(|c| c != '!' && c != '?').unwrap_or(calls.len())];
        // Several of them are one word, which the reference keeps.
        if calls.len() > 1 {
            words.push(calls.to_owned());
            start = at + calls.len();
        } else {
            sign(c, words);
            start = at + c.len_utf8();
        }
    }
    word(&chunk[start..], words);
}

/// Splits a word from the signs around it, and into its parts.
fn word(mut text: &str, words: &mut Vec<String>) {
    // Dashes and dots between words part them.
    for mark in ["--", "...", "—", "–"] {
        if let Some((before, behind)) = text.split_once(mark) {
            word(before, words);
            return word(behind.trim_start_matches(['-', '.']), words);
        }
    }
    // A comma or colon parts words, but not the digits of a number.
    let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    for (at, c) in text.char_indices().filter(|(_, c)| [',', ':'].contains(c)) {
        let (before, behind) = (&text[..at], &text[at + 1..]);
        if !(digit(before.chars().last()) && digit(behind.chars().next())) {
            word(before, words);
            sign(c, words);
            return word(behind, words);
        }
    }
    while let Some(first) = text.chars().next() {
        let number = (first == '.' || first == '-') && digit(text[1..].chars().next());
        if number || !is_sign(first) {
            break;
        }
        let joined = JOINED.iter().any(|(joined, _)| *joined == text);
        if joined || CLITICS.contains(&text) || first == '\'' && years(text) {
            break;
        }
        sign(first, words);
        text = &text[first.len_utf8()..];
    }
    let mut behind = Vec::new();
    while let Some(last) = text.chars().last() {
        if !is_sign(last) || keeps_period(text) {
            break;
        }
        behind.push(last);
        text = &text[..text.len() - last.len_utf8()];
    }
    clitics(text, words);
    for last in behind.into_iter().rev() {
        sign(last, words);
    }
}

/// Whether this is split from the begin and the end of a word.
fn is_sign(c: char) -> bool {
    c.is_ascii_punctuation() || "€£¥¢‘’".contains(c)
}

/// `'60s`.
fn years(text: &str) -> bool {
    let digits = text.trim_start_matches('\'').trim_end_matches('s');
    digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether the period at the end belongs to the word: `mr.`, `u.s.`, `e.g.`.
fn keeps_period(text: &str) -> bool {
    let Some(letters) = text.strip_suffix('.') else { return false };
    let initials = letters.split('.').all(|part| {
        let mut letters = part.chars();
        letters.next().is_some_and(char::is_alphabetic) && letters.next().is_none()
    });
    SHORT.contains(&text) || initials && letters.contains('.')
}

/// Splits off the endings of contractions.
fn clitics(text: &str, words: &mut Vec<String>) {
    if let Some((_, cut)) = JOINED.iter().find(|(joined, _)| *joined == text) {
        words.extend([text[..*cut].to_owned(), text[*cut..].to_owned()]);
        return;
    }
    for clitic in CLITICS {
        let curly = clitic.replace('\'', "’");
        let stem = text.strip_suffix(clitic).or_else(|| text.strip_suffix(curly.as_str()));
        if let Some(stem) = stem.filter(|stem| !stem.is_empty()) {
            clitics(stem, words);
            words.push(clitic.to_owned());
            return;
        }
    }
    if !text.is_empty() {
        words.push(text.to_owned());
    }
}
