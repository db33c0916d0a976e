//! Times of the runtime in the API's form and back.

use std::time::SystemTime;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::Timestamp;

/// A time in the API's form, which has no fractions of seconds.
pub(crate) fn api(time: SystemTime) -> Time {
    let stamp = Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
    Time(Timestamp::from_second(stamp.as_second()).unwrap_or(stamp))
}

/// The same with fractions.
pub(crate) fn micro(time: SystemTime) -> MicroTime {
    MicroTime(Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// A time of the API.
pub(crate) fn system(time: &Time) -> SystemTime {
    SystemTime::from(time.0)
}
