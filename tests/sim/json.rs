//! As much of JSON as a history needs: whole numbers, no floats.

use std::fmt;

#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(i64),
    Text(String),
    List(Vec<Json>),
    Map(Vec<(String, Json)>),
}

impl Json {
    pub fn parse(text: &str) -> Result<Json, String> {
        let mut parser = Parser { text: text.as_bytes(), at: 0 };
        let value = parser.value()?;
        parser.space();
        if parser.at < text.len() {
            return Err(format!("byte {}: something follows the value", parser.at));
        }
        Ok(value)
    }

    /// The value of a key; null if there is none.
    pub fn get(&self, key: &str) -> &Json {
        let Json::Map(items) = self else { return &Json::Null };
        items.iter().find(|(name, _)| name == key).map_or(&Json::Null, |(_, value)| value)
    }

    pub fn number(&self) -> Result<u64, String> {
        match self {
            Json::Number(number) => u64::try_from(*number).map_err(|_| format!("{number} is negative")),
            other => Err(format!("{other} is not a number")),
        }
    }

    /// A number, or what stands for none.
    pub fn number_or(&self, none: u64) -> Result<u64, String> {
        if *self == Json::Null {
            Ok(none)
        } else {
            self.number()
        }
    }

    pub fn text(&self) -> Result<&str, String> {
        match self {
            Json::Text(text) => Ok(text),
            other => Err(format!("{other} is not a text")),
        }
    }

    pub fn list<T>(&self, item: impl Fn(&Json) -> Result<T, String>) -> Result<Vec<T>, String> {
        match self {
            Json::List(items) => items.iter().map(item).collect(),
            other => Err(format!("{other} is not a list")),
        }
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Json::Null => f.write_str("null"),
            Json::Bool(value) => write!(f, "{value}"),
            Json::Number(number) => write!(f, "{number}"),
            Json::Text(text) => write!(f, "\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
            Json::List(items) => {
                f.write_str("[")?;
                for (position, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if position > 0 { "," } else { "" })?;
                }
                f.write_str("]")
            }
            Json::Map(items) => {
                f.write_str("{")?;
                for (position, (key, value)) in items.iter().enumerate() {
                    write!(f, "{}\"{key}\":{value}", if position > 0 { "," } else { "" })?;
                }
                f.write_str("}")
            }
        }
    }
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn space(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    /// Takes this byte, if it comes next.
    fn take(&mut self, byte: u8) -> bool {
        self.space();
        let found = self.text.get(self.at) == Some(&byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), String> {
        if self.take(byte) {
            Ok(())
        } else {
            Err(format!("byte {}: `{}` is missing", self.at, char::from(byte)))
        }
    }

    fn value(&mut self) -> Result<Json, String> {
        self.space();
        match self.text.get(self.at) {
            Some(b'{') => self.map(),
            Some(b'[') => self.list(),
            Some(b'"') => self.string().map(Json::Text),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.word(),
        }
    }

    fn word(&mut self) -> Result<Json, String> {
        for (word, value) in [("null", Json::Null), ("true", Json::Bool(true)), ("false", Json::Bool(false))] {
            if self.text[self.at..].starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(format!("byte {}: no value begins here", self.at))
    }

    fn number(&mut self) -> Result<Json, String> {
        let start = self.at;
        while self.text.get(self.at).is_some_and(|byte| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9'))
        {
            self.at += 1;
        }
        let digits = String::from_utf8_lossy(&self.text[start..self.at]);
        digits.parse().map(Json::Number).map_err(|_| format!("byte {start}: {digits} is not a whole number"))
    }

    fn string(&mut self) -> Result<String, String> {
        self.expect(b'"')?;
        let mut bytes = Vec::new();
        loop {
            match self.text.get(self.at) {
                None => return Err("a text has no end".into()),
                Some(b'"') => break,
                Some(b'\\') => {
                    bytes.extend(self.escaped()?.to_string().bytes());
                    continue;
                }
                Some(byte) => bytes.push(*byte),
            }
            self.at += 1;
        }
        self.at += 1;
        String::from_utf8(bytes).map_err(|error| error.to_string())
    }

    fn escaped(&mut self) -> Result<char, String> {
        let kind = self.text.get(self.at + 1).copied().unwrap_or_default();
        self.at += 2;
        let plain = match kind {
            b'n' => '\n',
            b't' => '\t',
            b'r' => '\r',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'"' | b'\\' | b'/' => char::from(kind),
            b'u' => {
                let digits = self.text.get(self.at..self.at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
                self.at += 4;
                let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
                code.and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            _ => return Err(format!("byte {}: unknown escape", self.at)),
        };
        Ok(plain)
    }

    fn list(&mut self) -> Result<Json, String> {
        self.expect(b'[')?;
        let mut items = Vec::new();
        while !self.take(b']') {
            if !items.is_empty() {
                self.expect(b',')?;
            }
            items.push(self.value()?);
        }
        Ok(Json::List(items))
    }

    fn map(&mut self) -> Result<Json, String> {
        self.expect(b'{')?;
        let mut items = Vec::new();
        while !self.take(b'}') {
            if !items.is_empty() {
                self.expect(b',')?;
            }
            self.space();
            let key = self.string()?;
            self.expect(b':')?;
            items.push((key, self.value()?));
        }
        Ok(Json::Map(items))
    }
}
