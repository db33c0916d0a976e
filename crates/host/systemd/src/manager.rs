//! Systemd itself: units started, changed, stopped, and its jobs waited for.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::bus::Bus;
use crate::error::{Result, SystemdError};
use crate::message::{Call, Message, Property, Writer};
use crate::names::object_path;

/// There on every machine that systemd has started (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";
/// Systemd's own socket, for root.
const PRIVATE: &str = "/run/systemd/private";
/// The system bus.
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

/// How long a job may take.
const PATIENCE: Duration = Duration::from_secs(30);

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const OBJECT: &str = "/org/freedesktop/systemd1";
const DBUS: &str = "org.freedesktop.DBus";

/// A connection to systemd.
#[derive(Debug)]
pub struct Manager {
    bus: Bus,
}

impl Manager {
    /// Connects to the systemd that has started this machine.
    ///
    /// # Errors
    ///
    /// [`SystemdError::Absent`] if there is none, [`SystemdError::Connect`] if it
    /// does not take us.
    pub fn connect() -> Result<Self> {
        if !Path::new(BOOTED).exists() {
            return Err(SystemdError::Absent);
        }
        Self::connect_at(&[PRIVATE.into(), SYSTEM_BUS.into()])
    }

    /// Connects to systemd's own socket or, failing that, to the bus.
    fn connect_at([private, system]: &[PathBuf; 2]) -> Result<Self> {
        if let Ok(bus) = Bus::connect(private) {
            // Whoever comes this way hears of every job unasked.
            return Ok(Self { bus });
        }
        let mut manager = Self {
            bus: Bus::connect(system)?,
        };
        manager.introduce()?;
        Ok(manager)
    }

    /// What a bus wants to hear first, and that we want to hear of jobs.
    fn introduce(&mut self) -> Result<()> {
        let call = |member, signature| Call {
            destination: DBUS,
            path: "/org/freedesktop/DBus",
            interface: DBUS,
            member,
            signature,
        };
        self.bus.call(call("Hello", ""), &Writer::default())?;
        let mut rule = Writer::default();
        rule.text(
            "type='signal',sender='org.freedesktop.systemd1',\
             interface='org.freedesktop.systemd1.Manager',member='JobRemoved'",
        );
        self.bus.call(call("AddMatch", "s"), &rule)?;
        self.call("Subscribe", "", &Writer::default())?;
        Ok(())
    }

    fn call(&mut self, member: &'static str, signature: &str, body: &Writer) -> Result<Message> {
        let call = Call {
            destination: SYSTEMD,
            path: OBJECT,
            interface: MANAGER,
            member,
            signature,
        };
        self.bus.call(call, body)
    }

    /// Makes a scope and waits until it is active. A failed unit of that name,
    /// which systemd still remembers, makes way.
    ///
    /// # Errors
    ///
    /// [`SystemdError::Refused`], [`SystemdError::Job`]; there is no unit then.
    pub fn start_scope(&mut self, unit: &str, properties: &[Property]) -> Result<()> {
        match self.try_start(unit, properties) {
            Err(error) if error.is_named("UnitExists") => {
                self.reset_failed(unit)?;
                self.try_start(unit, properties)
            }
            result => result,
        }
    }

    fn try_start(&mut self, unit: &str, properties: &[Property]) -> Result<()> {
        let mut body = Writer::default();
        body.text(unit);
        body.text("replace");
        body.properties(properties);
        body.no_units();
        let answer = self.call("StartTransientUnit", "ssa(sv)a(sa(sv))", &body)?;
        self.finish(unit, &answer)
    }

    /// Path of a unit's control group below the root of the hierarchies.
    ///
    /// # Errors
    ///
    /// [`SystemdError::Refused`] if there is no such scope.
    pub fn control_group(&mut self, unit: &str) -> Result<PathBuf> {
        let mut body = Writer::default();
        body.text("org.freedesktop.systemd1.Scope");
        body.text("ControlGroup");
        let call = Call {
            destination: SYSTEMD,
            path: &object_path(unit),
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
            signature: "ss",
        };
        let answer = self.bus.call(call, &body)?;
        Ok(answer.body().variant_text()?.into())
    }

    /// Changes properties of a unit until it ends.
    ///
    /// # Errors
    ///
    /// [`SystemdError::Refused`].
    pub fn set_properties(&mut self, unit: &str, properties: &[Property]) -> Result<()> {
        let mut body = Writer::default();
        body.text(unit);
        // For this run of the machine only.
        body.flag(true);
        body.properties(properties);
        self.call("SetUnitProperties", "sba(sv)", &body).map(drop)
    }

    /// Ends a unit, with every process in it, and waits until it is gone. One
    /// that is not there is well.
    ///
    /// # Errors
    ///
    /// [`SystemdError::Refused`], [`SystemdError::Job`].
    pub fn stop(&mut self, unit: &str) -> Result<()> {
        let mut body = Writer::default();
        body.text(unit);
        body.text("replace");
        match self.call("StopUnit", "ss", &body) {
            Err(error) if error.is_named("NoSuchUnit") => {}
            answer => self.finish(unit, &answer?)?,
        }
        self.reset_failed(unit)
    }

    /// Makes systemd forget that a unit has failed.
    fn reset_failed(&mut self, unit: &str) -> Result<()> {
        let mut body = Writer::default();
        body.text(unit);
        match self.call("ResetFailedUnit", "s", &body) {
            Err(error) if error.is_named("NoSuchUnit") => Ok(()),
            result => result.map(drop),
        }
    }

    /// Waits for the end of the job a call was answered with.
    fn finish(&mut self, unit: &str, answer: &Message) -> Result<()> {
        let job = answer.body().text()?.to_owned();
        let deadline = Instant::now() + PATIENCE;
        while let Some(signal) = self.bus.signal(deadline)? {
            if signal.member != "JobRemoved" {
                continue;
            }
            let mut body = signal.body();
            body.number()?;
            if body.text()? != job {
                continue;
            }
            body.text()?;
            return match body.text()? {
                "done" => Ok(()),
                result => Err(SystemdError::Job {
                    unit: unit.to_owned(),
                    result: result.to_owned(),
                }),
            };
        }
        Err(SystemdError::Stuck(unit.to_owned()))
    }
}
