//! JSON for programs that read the output of `ringmail queue`, `verify` and others.

/// A string, quoted.
pub fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A string, or null.
pub fn optional(value: Option<&str>) -> String {
    value.map_or("null".to_owned(), text)
}

/// Values are already JSON.
pub fn object(fields: &[(&str, String)]) -> String {
    let fields: Vec<String> =
        fields.iter().map(|(name, value)| format!("{}:{value}", text(name))).collect();
    format!("{{{}}}", fields.join(","))
}

/// Items are already JSON.
pub fn list(items: &[String]) -> String {
    format!("[{}]", items.join(","))
}
