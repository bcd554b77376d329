//! Templates that could make a value hold itself.
//!
//! The engine's values are finite but for one kind: a namespace can be changed, and so be put into
//! itself. Printing that would never end but by overflowing the stack, which kills the program.
//! Templates use namespaces as a place to count in; what else can be done with them is refused.

use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;

const NAMESPACE: &str = "namespace";

/// Checks that each namespace is made by `set name = namespace(…)` and from there on only asked
/// for its attributes, or given new ones.
///
/// # Errors
/// The name that is used in another way.
pub(super) fn check(source: &str, syntax: SyntaxConfig) -> Result<(), String> {
    // What is no token is told by the engine itself, with its line.
    let tokens: Vec<Token<'_>> =
        tokenize(source, false, syntax).map_while(|token| token.ok().map(|(t, _)| t)).collect();
    let is_name =
        |at: usize, name: &str| matches!(tokens.get(at), Some(Token::Ident(n)) if *n == name);
    // `set name = namespace (`, by the place of `name`.
    let makes = |at: usize| {
        at > 0
            && is_name(at - 1, "set")
            && matches!(tokens.get(at + 1), Some(Token::Assign))
            && is_name(at + 2, NAMESPACE)
            && matches!(tokens.get(at + 3), Some(Token::ParenOpen))
    };
    let mut made: Vec<&str> = vec![NAMESPACE];
    for (at, token) in tokens.iter().enumerate() {
        if let Token::Ident(name) = token
            && makes(at)
        {
            made.push(name);
        }
    }
    for (at, token) in tokens.iter().enumerate() {
        let Token::Ident(name) = token else { continue };
        let attribute = at > 0 && matches!(tokens[at - 1], Token::Dot);
        if attribute || !made.contains(name) || makes(at) {
            continue;
        }
        let allowed = match *name {
            NAMESPACE => at >= 2 && makes(at - 2),
            _ => matches!(tokens.get(at + 1), Some(Token::Dot)),
        };
        if !allowed {
            return Err(format!("uses the namespace {name:?} other than for its attributes"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(source: &str) -> bool {
        check(source, SyntaxConfig::default()).is_ok()
    }

    #[test]
    fn counting_is_fine_and_tying_is_not() {
        let ns = "{% set ns = namespace(n=0) %}";
        for fine in [
            "{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ message.ns }} ns namespace {{ 'ns' }}",
            "{% for m in messages %}{% if ns.n %}{% set ns.list = [ns.n, m] %}{% endif %}{% endfor %}",
        ] {
            assert!(checked(&format!("{ns}{fine}")), "{fine}");
        }
        for tied in [
            "{% set ns.s = ns %}",
            "{% set ns.s = [1, {'a': ns}] %}",
            "{% set a = ns %}{% set ns.s = a %}",
            "{{ f(ns) }}",
            "{% set ns.s = namespace() %}",
            "{% set f = namespace %}{% set x = f() %}",
            "{{ '%}' }}{% set ns.s = ns %}",
            "{{ \"{%\" }}{% set ns.s = ns -%}",
        ] {
            assert!(!checked(&format!("{ns}{tied}")), "{tied}");
        }
    }
}
