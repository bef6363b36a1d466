//! The own certificate of a client of a cluster. Nobody renews it by itself, so it says in time that it ends: in the log once
//! a day, and to whoever asks how the storage is.

use crate::base::sync::Mutex;
use crate::base::time::SystemClock;
use crate::base::{Clock, Millis};
use crate::net::{Security, Tls};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The files are looked at so often.
const LOOK_EVERY: Duration = Duration::from_secs(3_600);
/// And what they say is logged so often.
const TELL_EVERY: Duration = Duration::from_secs(24 * 3_600);
const DAY_MS: u64 = 24 * 3_600_000;

pub struct OwnCertificate {
    tls: Arc<Tls>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    looked: Option<Instant>,
    told: Option<Instant>,
}

impl OwnCertificate {
    /// Nothing: this client has none.
    pub fn of(security: &Security) -> Option<Self> {
        let Security::Tls(tls) = security else { return None };
        tls.files()?;
        Some(Self { tls: tls.clone(), state: Mutex::default() })
    }

    /// To be called now and then. Never blocks for longer than a look at the files.
    pub fn mind(&self) {
        if let Some(words) = self.mind_at(Instant::now(), SystemClock.wall()) {
            log::warn!("{words}");
        }
    }

    /// What is to be logged now.
    fn mind_at(&self, now: Instant, wall: Millis) -> Option<String> {
        let mut state = self.state.lock();
        let over =
            |since: Option<Instant>, span| since.is_none_or(|since| now.saturating_duration_since(since) >= span);
        if !over(state.looked, LOOK_EVERY) {
            return None;
        }
        state.looked = Some(now);
        let words = self.words(wall).filter(|_| over(state.told, TELL_EVERY))?;
        state.told = Some(now);
        Some(words)
    }

    /// When it expires.
    pub fn expires_at(&self) -> Option<Millis> {
        self.tls.expires_at()
    }

    /// What somebody should do about it.
    pub fn alarm(&self) -> Option<String> {
        self.words(SystemClock.wall())
    }

    fn words(&self, wall: Millis) -> Option<String> {
        let left = self.tls.ends_in(wall)?;
        let file = self.tls.files()?.certificate.display();
        let when = match left.0 {
            0 => "has expired and no node lets it in".to_owned(),
            left => format!("expires in {} days", left / DAY_MS),
        };
        Some(format!(
            "the certificate of this client {when}: put a new one in the place of {file}, and its key beside it; nothing \
             need be started again"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ClusterId;
    use crate::net::{Authority, Lifetime, Role};
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::time::SystemTime;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_client_says_once_a_day_that_its_certificate_ends_and_stops_when_there_is_a_new_one() {
        let dir = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap();
        let authority = Authority::create(ClusterId([7; 16])).unwrap();
        let issue = |lifetime| {
            let issued = authority.issue(&Role::client("web").unwrap(), &[], lifetime).unwrap();
            issued.save(dir.path(), "web").unwrap()
        };
        let files = issue(Lifetime { from: SystemTime::now() - 61 * DAY, days: 90 });
        let tls = Tls::from_files(files.authority, files.certificate, files.key).unwrap();
        let own = OwnCertificate::of(&Security::Tls(tls)).unwrap();
        let (start, wall) = (Instant::now(), SystemClock.wall());
        let minded: Vec<_> = (0..48 * 4).map(|quarter| own.mind_at(start + quarter * LOOK_EVERY / 4, wall)).collect();
        let told: Vec<_> = minded.into_iter().flatten().collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("expires in 28 days") && told[0].contains("web.pem"), "{told:?}");
        assert_eq!(own.alarm().as_deref(), Some(&*told[0]));
        let late = own.words(wall.plus(Millis(40 * DAY_MS))).unwrap();
        assert!(late.contains("has expired"), "{late}");
        issue(Lifetime::days(90));
        assert_eq!((own.alarm(), own.mind_at(start + 9 * TELL_EVERY, wall)), (None, None));
    }
}
