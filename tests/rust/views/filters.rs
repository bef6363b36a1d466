//! Which jobs a filter matches: one table, asked of the same job in memory and as a record.

use raftwork::base::codec::{Reader, Writer};
use raftwork::base::JobId;
use raftwork::machine::filter::Filter;
use raftwork::machine::record::JobRecord;

fn write(w: &mut Writer, value: &str) {
    match value {
        "nil" => w.nil(),
        "true" => w.bool(true),
        "false" => w.bool(false),
        _ if value.starts_with('#') => w.bin(&hex(&value[1..])),
        _ if value.starts_with('"') => w.str(value.trim_matches('"')),
        _ if value.contains('.') && value.parse::<f64>().is_ok() => {
            let bits = value.parse::<f64>().unwrap().to_be_bytes();
            w.raw(&[&[0xcb], &bits[..]].concat())
        }
        _ => match value.parse::<i64>() {
            Ok(number) => w.i64(number),
            Err(_) => w.str(value),
        },
    };
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// `field operator value|value`, clauses separated by ` & `.
fn filter(text: &str) -> raftwork::base::Result<Filter> {
    let clauses: Vec<&str> = text.split(" & ").filter(|clause| !clause.is_empty()).collect();
    let mut w = Writer::new();
    w.array(clauses.len());
    for clause in clauses {
        let mut parts = clause.splitn(3, ' ');
        let (field, operator, values) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        let values: Vec<&str> = values.split('|').filter(|value| !value.is_empty()).collect();
        w.array(3).str(field).str(operator).array(values.len());
        values.iter().for_each(|value| write(&mut w, value));
    }
    Filter::decode(&mut Reader::new(w.as_bytes()))
}

/// `([7, "ann"], {user: {id: 42, 5: "five"}, rate: 1.5, big: 2^64-1, on: true, none: nil, when: extension, list: [1, [2]]})`
fn args() -> Vec<u8> {
    let mut w = Writer::new();
    w.array(2).array(2).u64(7).str("ann").map(7);
    w.str("user").map(2).str("id").u64(42).u64(5).str("five");
    w.str("rate").raw(&[&[0xcb], &1.5f64.to_be_bytes()[..]].concat());
    w.str("big").u64(u64::MAX).str("on").bool(true).str("none").nil();
    w.str("when").raw(&[0xd4, 4, 0]);
    w.str("list").array(2).u64(1).array(1).i64(-2);
    w.into_bytes()
}

/// A filter in words, and whether the job below passes it.
const TABLE: &[(&str, bool)] = &[
    ("", true),
    ("state = retrying", true),
    ("state = failed|retrying", true),
    ("state = failed", false),
    ("function = mail.send", true),
    ("function = mail", false),
    ("function prefix mail.|x", true),
    ("function contains l.s", true),
    ("function prefix send", false),
    ("queue = low|default", true),
    ("queue = low", false),
    ("tag = crm", true),
    ("tag = crm & tag = eu", true),
    ("tag = crm & tag = us", false),
    ("tag prefix c", true),
    ("error = requests.exceptions.Timeout", true),
    ("error = Timeout", true),
    ("error = exceptions.Timeout", false),
    ("error prefix requests.", true),
    ("unique = invoice:7", true),
    ("unique prefix invoice:", true),
    ("unique = invoice", false),
    ("id = #0192a3f45b6c7d8e9f00112233445566", true),
    ("id = #0192a3f45b6c7d8e9f00112233445567", false),
    ("id prefix 0192a3f4-5b", true),
    ("id prefix \"0192\"", true),
    ("id prefix \"0193\"|f", false),
    ("id prefix -", false),
    ("schedule = nightly", true),
    ("schedule prefix night", true),
    ("schedule = weekly", false),
    ("fingerprint = 0123456789abcdef", true),
    ("fingerprint prefix \"0123\"", true),
    ("fingerprint = \"0123\"", false),
    ("batch = #0192a3f45b6c7d8e9f001122334455ff", true),
    ("batch = #0192a3f45b6c7d8e9f00112233445566", false),
    ("batch prefix 0192a3f4-5b", true),
    ("parent = #00000000000000000000000000000002", true),
    ("parent = #00000000000000000000000000000001|#0192a3f45b6c7d8e9f00112233445566", true),
    ("parent = #0192a3f45b6c7d8e9f001122334455ff", false),
    ("parent prefix \"0000\"", true),
    ("parent prefix \"0192\"", false),
    ("text prefix mail", true),
    ("text prefix \"0192\"", true),
    ("text prefix send", false),
    ("attempt = 2", true),
    ("attempt >= 3", false),
    ("attempt < 3", true),
    ("priority < 0", true),
    ("priority <= -3", true),
    ("priority > -3", false),
    ("crashes = 0", true),
    ("created_ms >= 1000", true),
    ("created_ms < 1000", false),
    ("run_at_ms > 4999", true),
    ("finished_ms >= 0", false),
    ("args.0 = 7", true),
    ("args.0 = \"7\"", false),
    ("args.0 = \"7\"|7", true),
    ("args.1 = ann", true),
    ("args.1 prefix an", true),
    ("args.1 contains nn", true),
    ("args.1 > aaa", true),
    ("args.2 = 7", false),
    ("args.user.id = 42", true),
    ("args.user.id = 42.0", true),
    ("args.user.id >= 41.5", true),
    ("args.user.id < 42", false),
    ("args.user.5 = five", true),
    ("args.user = 42", false),
    ("args.user.id.x = 42", false),
    ("args.rate = 1.5", true),
    ("args.rate > 1", true),
    ("args.big > 9223372036854775807", true),
    ("args.on = true", true),
    ("args.on = 1", false),
    ("args.on = false", false),
    ("args.none = nil", true),
    ("args.none = false", false),
    ("args.missing = nil", false),
    ("args.when = 0", false),
    ("args.list.0 = 1", true),
    ("args.list.1.0 = -2", true),
    ("args.list.2 = 1", false),
    ("state = retrying & args.user.id = 42 & attempt = 2", true),
    ("state = retrying & args.user.id = 42 & attempt = 1", false),
];

#[test]
fn filter_table() {
    let mut error = Writer::new();
    error.array(3).str("requests.exceptions.Timeout").str("slow").str("Traceback\n\nFingerprint: 0123456789abcdef\n");
    let batch = JobId(hex("0192a3f45b6c7d8e9f001122334455ff").try_into().unwrap());
    let mut flow = Writer::new();
    flow.array(7).id(batch).u64(1).u64(0).u64(0).nil().array(2);
    for parent in [1, 2u128] {
        flow.array(4).id(JobId(parent.to_be_bytes())).u64(0).bool(false).u64(1);
    }
    flow.array(0);
    let args = args();
    let job = JobRecord {
        id: JobId(hex("0192a3f45b6c7d8e9f00112233445566").try_into().unwrap()),
        state: 4,
        function: "mail.send",
        queue: "default",
        priority: -3,
        tags: vec!["eu", "crm"],
        attempt: 2,
        created_ms: 1_000,
        run_at_ms: Some(5_000),
        unique_key: Some("invoice:7"),
        error: Some(error.as_bytes()),
        args: &args,
        schedule: Some("nightly"),
        batch: Some(batch),
        flow: Some(flow.as_bytes()),
        ..Default::default()
    };
    let record = job.encode();
    for (text, expected) in TABLE.iter().copied() {
        let filter = filter(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(filter.matches(&job), expected, "{text}");
        assert_eq!(filter.matches(&JobRecord::decode(&record).unwrap()), expected, "{text}, as a record");
        let labels = raftwork::machine::record::labels(&record);
        let may = filter.labels().iter().all(|any| any.iter().any(|wanted| labels & wanted == *wanted));
        assert!(may || !expected, "{text}: its labels would have hidden the record");
    }
}

#[test]
fn filter_that_makes_no_sense_is_refused() {
    for text in [
        "state = faild",
        "state prefix re",
        "nonsense = 1",
        "attempt = two",
        "attempt prefix 1",
        "queue < a",
        "queue = ",
        "id = 0192",
        "id < x",
        "text = mail",
        "batch = nightly",
        "parent < x",
        "batch contains 0192",
        "schedule < a",
        "args. = 1",
        "args.a..b = 1",
        "args.a = #00",
        "function like x",
    ] {
        assert!(filter(text).is_err(), "{text}");
    }
    assert!(filter(&vec!["attempt = 1"; 65].join(" & ")).is_err());
    assert!(filter(&format!("args.{} = 1", ["a"; 17].join("."))).is_err());
}

#[test]
fn arguments_that_are_damaged_match_nothing() {
    let whole = args();
    let filter = filter("args.list.1.0 = -2").unwrap();
    for cut in 0..whole.len() {
        let job = JobRecord { args: &whole[..cut], ..Default::default() };
        assert!(!filter.matches(&job), "cut at {cut}");
    }
}
