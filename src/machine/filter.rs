//! Conditions on jobs, the same for jobs in memory and in the archive.
//!
//! On the wire a filter is a list of clauses `[field, operator, [value...]]`: all clauses must hold, and a clause holds
//! when one of its values does.
//!
//! | field                                                               | operators              | values          |
//! |---------------------------------------------------------------------|------------------------|-----------------|
//! | `state`                                                             | `=`                    | names of states |
//! | `id`                                                                | `=` `prefix`           | bytes; hex text |
//! | `batch` `parent`                                                    | as `id`                | as `id`         |
//! | `function` `queue` `tag` `error` `unique` `schedule` `fingerprint`  | `=` `prefix` `contains` | texts          |
//! | `text` (function or id begins so)                                   | `prefix`               | texts           |
//! | `attempt` `crashes` `priority` `generation`, all moments (`.._ms`)  | `=` `<` `<=` `>` `>=`  | whole numbers   |
//! | `args.` and a path: keyword, or position; then keys and positions   | all                    | any plain value |
//!
//! `error` means the type of the last error, with or without its module, and `fingerprint` the last line of its traceback.
//! Numbers in arguments compare by value, so 1 equals 1.0; a text never equals a number. Values of an extension type (a
//! date, a decimal) match nothing.

use super::fields::{fingerprint, Fields, Number};
use super::record::{error_parts, label, STATE_NAMES};
use crate::base::codec::Reader;
use crate::base::{Error, JobId, Result};

/// Clauses of one filter, values of one clause, and steps of one path.
const CLAUSES_MAX: usize = 64;
const VALUES_MAX: usize = 1_000;
const STEPS_MAX: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Function,
    Queue,
    Tag,
    Error,
    Unique,
    Schedule,
    Fingerprint,
}

/// Whose id a clause means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Own,
    Batch,
    /// Any of its parents.
    Parent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Prefix,
    Contains,
}

/// A plain value of an argument or of a clause.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Nil,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
}

#[derive(Clone, Debug)]
enum Clause {
    /// One bit for each state.
    State(u8),
    Ids(Whose, Vec<JobId>),
    /// The id's hexadecimal digits, without dashes, begin so.
    IdPrefix(Whose, Vec<String>),
    Number(Number, Operator, Vec<i64>),
    Word(Word, Operator, Vec<String>),
    /// The function, or the id, begins so.
    Free(Vec<String>),
    Args(Vec<String>, Operator, Vec<Value>),
}

/// What a clause must read, cheapest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cost {
    /// Only what jobs of one specification share.
    Spec,
    /// A few numbers of the job itself.
    Job,
    /// Texts and arguments behind pointers.
    Deep,
}

/// A filter that was read and checked.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    clauses: Vec<Clause>,
}

fn invalid(what: impl Into<String>) -> Error {
    Error::Invalid(what.into())
}

impl Filter {
    pub fn decode(reader: &mut Reader<'_>) -> Result<Filter> {
        let length = reader.array()?;
        if length > CLAUSES_MAX {
            return Err(invalid(format!("a filter of {length} clauses; at most {CLAUSES_MAX}")));
        }
        let clauses = (0..length).map(|_| decode_clause(reader)).collect::<Result<_>>()?;
        Ok(Filter { clauses })
    }

    /// Whether every clause holds.
    pub fn matches(&self, job: &impl Fields) -> bool {
        self.clauses.iter().all(|clause| clause.holds(job))
    }

    /// Whether every clause of this cost holds.
    pub fn matches_at(&self, cost: Cost, job: &impl Fields) -> bool {
        self.clauses.iter().filter(|clause| clause.cost() == cost).all(|clause| clause.holds(job))
    }

    pub fn has(&self, cost: Cost) -> bool {
        self.clauses.iter().any(|clause| clause.cost() == cost)
    }

    /// States that a match may have, one bit each.
    pub fn states(&self) -> u8 {
        self.clauses.iter().fold(u8::MAX, |states, clause| match clause {
            Clause::State(mask) => states & mask,
            _ => states,
        })
    }

    /// The labels that a record must have to match, for skipping what cannot: alternatives for each clause.
    pub fn labels(&self) -> Vec<Vec<u64>> {
        let of_clause = |clause: &Clause| match clause {
            Clause::State(mask) => Some((0..8).filter(|state| mask & (1 << state) != 0).map(|s| 1 << s).collect()),
            Clause::Word(word, Operator::Equal, values) => {
                let field = match word {
                    Word::Function => "function",
                    Word::Queue => "queue",
                    Word::Tag => "tag",
                    Word::Error => "error",
                    Word::Unique | Word::Schedule | Word::Fingerprint => return None,
                };
                Some(values.iter().map(|value| label(field, value)).collect())
            }
            Clause::Ids(Whose::Batch, ids) => Some(ids.iter().map(|id| label("batch", &id.to_string())).collect()),
            _ => None,
        };
        self.clauses.iter().filter_map(of_clause).collect()
    }
}

impl Clause {
    fn cost(&self) -> Cost {
        match self {
            Clause::Word(Word::Function | Word::Queue | Word::Tag, ..) | Clause::Number(Number::Priority, ..) => {
                Cost::Spec
            }
            Clause::Ids(Whose::Batch | Whose::Parent, _) | Clause::IdPrefix(Whose::Batch | Whose::Parent, _) => {
                Cost::Deep
            }
            Clause::State(_) | Clause::Ids(..) => Cost::Job,
            Clause::Number(Number::Attempt | Number::Crashes | Number::Generation | Number::Created, ..) => Cost::Job,
            Clause::Number(..) | Clause::IdPrefix(..) | Clause::Free(_) => Cost::Job,
            Clause::Word(..) | Clause::Args(..) => Cost::Deep,
        }
    }

    fn holds(&self, job: &impl Fields) -> bool {
        match self {
            Clause::State(mask) => mask & (1 << job.state()) != 0,
            Clause::Ids(whose, ids) => whose.any(job, |id| ids.contains(&id)),
            Clause::IdPrefix(whose, prefixes) => whose.any(job, |id| id_begins(id, prefixes)),
            Clause::Number(field, operator, values) => {
                job.number(*field).is_some_and(|number| values.iter().any(|value| operator.orders(number.cmp(value))))
            }
            Clause::Word(word, operator, values) => word_holds(job, *word, *operator, values),
            Clause::Free(texts) => {
                texts.iter().any(|text| job.function().starts_with(&**text)) || id_begins(job.id(), texts)
            }
            Clause::Args(path, operator, values) => {
                let found = find(job.args(), path);
                found.is_some_and(|found| values.iter().any(|value| operator.compares(&found, value)))
            }
        }
    }
}

impl Whose {
    fn any(self, job: &impl Fields, mut fits: impl FnMut(JobId) -> bool) -> bool {
        match self {
            Whose::Own => fits(job.id()),
            Whose::Batch => job.batch().is_some_and(fits),
            Whose::Parent => job.has_parent(&mut fits),
        }
    }

    fn of(field: &str) -> Option<Whose> {
        Some(match field {
            "id" => Whose::Own,
            "batch" => Whose::Batch,
            "parent" => Whose::Parent,
            _ => return None,
        })
    }
}

fn word_holds(job: &impl Fields, word: Word, operator: Operator, values: &[String]) -> bool {
    let any = |text: &str| values.iter().any(|value| operator.fits(text, value));
    match word {
        Word::Function => any(job.function()),
        Word::Queue => any(job.queue()),
        Word::Unique => job.unique().is_some_and(any),
        Word::Tag => job.tags().any(any),
        Word::Schedule => job.schedule().is_some_and(any),
        Word::Fingerprint => job.error().and_then(fingerprint).is_some_and(any),
        Word::Error => {
            let kind = job.error().and_then(error_parts).map(|[kind, ..]| kind);
            kind.is_some_and(|kind| any(kind) || any(without_module(kind)))
        }
    }
}

/// `TimeoutError` of `builtins.TimeoutError`.
pub(super) fn without_module(kind: &str) -> &str {
    kind.rsplit('.').next().unwrap_or(kind)
}

fn id_begins(id: JobId, prefixes: &[String]) -> bool {
    let mut digits = [0; 32];
    for (position, byte) in id.0.iter().enumerate() {
        digits[position * 2] = HEX[usize::from(byte >> 4)];
        digits[position * 2 + 1] = HEX[usize::from(byte & 15)];
    }
    prefixes.iter().any(|prefix| {
        let mut given = prefix.bytes().filter(|byte| *byte != b'-').peekable();
        given.peek().is_some() && prefix.len() <= 36 && given.zip(digits).all(|(given, digit)| given == digit)
    })
}

const HEX: &[u8; 16] = b"0123456789abcdef";

impl Operator {
    fn decode(name: &str) -> Result<Operator> {
        Ok(match name {
            "=" => Operator::Equal,
            "<" => Operator::Less,
            "<=" => Operator::LessEqual,
            ">" => Operator::Greater,
            ">=" => Operator::GreaterEqual,
            "prefix" => Operator::Prefix,
            "contains" => Operator::Contains,
            _ => return Err(invalid(format!("{name:?} is not an operator of filters"))),
        })
    }

    fn orders(self, ordering: std::cmp::Ordering) -> bool {
        match self {
            Operator::Equal => ordering.is_eq(),
            Operator::Less => ordering.is_lt(),
            Operator::LessEqual => ordering.is_le(),
            Operator::Greater => ordering.is_gt(),
            Operator::GreaterEqual => ordering.is_ge(),
            Operator::Prefix | Operator::Contains => false,
        }
    }

    fn fits(self, text: &str, value: &str) -> bool {
        match self {
            Operator::Prefix => text.starts_with(value),
            Operator::Contains => text.contains(value),
            _ => self.orders(text.cmp(value)),
        }
    }

    fn compares(self, found: &Value, value: &Value) -> bool {
        match (found, value) {
            (Value::Text(found), Value::Text(value)) => self.fits(found, value),
            (Value::Int(found), Value::Int(value)) => self.orders(found.cmp(value)),
            (Value::Nil, Value::Nil) => self == Operator::Equal,
            (Value::Bool(found), Value::Bool(value)) => self == Operator::Equal && found == value,
            _ => match (found.as_float(), value.as_float()) {
                (Some(found), Some(value)) => found.partial_cmp(&value).is_some_and(|ordering| self.orders(ordering)),
                _ => false,
            },
        }
    }
}

impl Value {
    fn decode(reader: &mut Reader<'_>) -> Option<Value> {
        use rmp::Marker::*;
        let raw = reader.raw().ok()?;
        let mut inside = Reader::new(raw);
        Some(match rmp::Marker::from_u8(*raw.first()?) {
            Null => Value::Nil,
            True => Value::Bool(true),
            False => Value::Bool(false),
            FixPos(_) | U8 | U16 | U32 | U64 => Value::Int(inside.u64().ok()?.into()),
            FixNeg(_) | I8 | I16 | I32 | I64 => Value::Int(inside.i64().ok()?.into()),
            F32 => Value::Float(f32::from_be_bytes(*raw.get(1..)?.first_chunk()?).into()),
            F64 => Value::Float(f64::from_be_bytes(*raw.get(1..)?.first_chunk()?)),
            FixStr(_) | Str8 | Str16 | Str32 => Value::Text(inside.str().ok()?.to_owned()),
            _ => return None,
        })
    }

    fn as_float(&self) -> Option<f64> {
        match self {
            Value::Int(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            _ => None,
        }
    }
}

/// The plain value at a path of encoded arguments, `[positional list, map of keywords]`.
fn find(args: &[u8], path: &[String]) -> Option<Value> {
    let mut reader = Reader::new(args);
    reader.array_of(2, "arguments").ok()?;
    let mut positional = Reader::new(reader.raw().ok()?);
    let (first, rest) = path.split_first()?;
    let mut here = match step(&mut reader, first) {
        Some(value) => value,
        None => step(&mut positional, first)?,
    };
    for part in rest {
        here = step(&mut Reader::new(here), part)?;
    }
    Value::decode(&mut Reader::new(here))
}

/// One step into a map, by key, or into an array, by position.
fn step<'a>(reader: &mut Reader<'a>, part: &str) -> Option<&'a [u8]> {
    if let Ok(items) = reader.clone().map() {
        reader.map().ok()?;
        for _ in 0..items {
            let key = Value::decode(reader);
            let value = reader.raw().ok()?;
            let same = match key {
                Some(Value::Text(key)) => key == part,
                Some(Value::Int(key)) => part.parse() == Ok(key),
                _ => false,
            };
            if same {
                return Some(value);
            }
        }
        return None;
    }
    let items = reader.array().ok()?;
    let position: usize = part.parse().ok().filter(|position| *position < items)?;
    for _ in 0..position {
        reader.raw().ok()?;
    }
    reader.raw().ok()
}

fn decode_clause(reader: &mut Reader<'_>) -> Result<Clause> {
    reader.array_of(3, "a clause of a filter")?;
    let field = reader.str()?;
    let operator = Operator::decode(reader.str()?)?;
    let length = reader.array()?;
    if length == 0 || length > VALUES_MAX {
        return Err(invalid(format!("{length} values for {field:?}; from 1 to {VALUES_MAX}")));
    }
    let compares = !matches!(operator, Operator::Prefix | Operator::Contains);
    if let Some(number) = number_field(field).filter(|_| compares) {
        let values = (0..length).map(|_| reader.i64()).collect::<Result<_>>()?;
        return Ok(Clause::Number(number, operator, values));
    }
    if let Some(whose) = Whose::of(field).filter(|_| operator == Operator::Equal) {
        return Ok(Clause::Ids(whose, (0..length).map(|_| reader.id()).collect::<Result<_>>()?));
    }
    let mut texts = || (0..length).map(|_| reader.str().map(str::to_owned)).collect::<Result<Vec<String>>>();
    if let Some(whose) = Whose::of(field).filter(|_| operator == Operator::Prefix) {
        return Ok(Clause::IdPrefix(whose, texts()?));
    }
    let word = word_field(field).filter(|_| matches!(operator, Operator::Equal) || !compares);
    match (field, operator, word) {
        (_, _, Some(word)) => Ok(Clause::Word(word, operator, texts()?)),
        ("state", Operator::Equal, _) => {
            let states = texts()?.iter().map(|name| state_bit(name)).collect::<Result<Vec<u8>>>()?;
            Ok(Clause::State(states.iter().fold(0, |mask, bit| mask | bit)))
        }
        ("text", Operator::Prefix, _) => Ok(Clause::Free(texts()?)),
        _ => match field.strip_prefix("args.") {
            Some(path) => decode_args(reader, path, operator, length),
            None => Err(invalid(format!("a filter cannot ask {field:?} with this operator"))),
        },
    }
}

fn decode_args(reader: &mut Reader<'_>, path: &str, operator: Operator, length: usize) -> Result<Clause> {
    let steps: Vec<String> = path.split('.').map(str::to_owned).collect();
    if steps.len() > STEPS_MAX || steps.iter().any(String::is_empty) {
        return Err(invalid(format!("\"args.{path}\" is not a path of 1 to {STEPS_MAX} names")));
    }
    let value = |reader: &mut Reader<'_>| {
        Value::decode(reader).ok_or_else(|| invalid(format!("a value for \"args.{path}\" is not plain")))
    };
    Ok(Clause::Args(steps, operator, (0..length).map(|_| value(reader)).collect::<Result<_>>()?))
}

fn state_bit(name: &str) -> Result<u8> {
    let state = STATE_NAMES.iter().position(|known| *known == name);
    state.map(|state| 1 << state).ok_or_else(|| invalid(format!("{name:?} is not a state of jobs")))
}

fn number_field(field: &str) -> Option<Number> {
    Some(match field {
        "attempt" => Number::Attempt,
        "crashes" => Number::Crashes,
        "priority" => Number::Priority,
        "generation" => Number::Generation,
        "created_ms" => Number::Created,
        "run_at_ms" => Number::RunAt,
        "enqueued_ms" => Number::Enqueued,
        "started_ms" => Number::Started,
        "finished_ms" => Number::Finished,
        _ => return None,
    })
}

fn word_field(field: &str) -> Option<Word> {
    Some(match field {
        "function" => Word::Function,
        "queue" => Word::Queue,
        "tag" => Word::Tag,
        "error" => Word::Error,
        "unique" => Word::Unique,
        "schedule" => Word::Schedule,
        "fingerprint" => Word::Fingerprint,
        _ => return None,
    })
}
