//! The cluster's certificate authority, the server's certificate, and clients'.

use std::net::IpAddr;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;

use super::UserInfo;
use crate::config::Config;
use crate::server::OpenError;

/// Certificates are valid for a year from an hour before they are made; the
/// authority's for ten.
const DAYS: i64 = 365;

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The certificate, PEM.
    pub certificate: String,
    /// The private key, PKCS#8 PEM.
    pub key: String,
}

/// The cluster's certificate authority.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
    now: jiff::Timestamp,
}

/// Writes a file that only its owner may read: whole, or not at all.
pub(crate) fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), OpenError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let temporary = path.with_extension("new");
    let write = || {
        let mut file = std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|error| OpenError::write(path, error))
}

fn validity(params: &mut CertificateParams, now: jiff::Timestamp, days: i64) {
    let date = |time: jiff::Timestamp| {
        let part = |form: &str| {
            let text = time.strftime(form).to_string();
            text.parse::<i32>().expect("a date is made of numbers")
        };
        rcgen::date_time_ymd(part("%Y"), part("%m") as u8, part("%d") as u8)
    };
    params.not_before = date(now - jiff::SignedDuration::from_hours(1));
    params.not_after = date(now + jiff::SignedDuration::from_hours(24 * (days + 1)));
}

impl Authority {
    /// Reads the authority from a directory, or makes one there.
    pub(crate) fn load(directory: &Path, now: jiff::Timestamp) -> Result<Self, OpenError> {
        let (certificate_path, key_path) = (directory.join("ca.crt"), directory.join("ca.key"));
        if !key_path.exists() || !certificate_path.exists() {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::default();
            params
                .distinguished_name
                .push(DnType::CommonName, "kubernetes");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![
                KeyUsagePurpose::DigitalSignature,
                KeyUsagePurpose::KeyCertSign,
                KeyUsagePurpose::CrlSign,
            ];
            validity(&mut params, now, DAYS * 10);
            let certificate = params.self_signed(&key)?.pem();
            write_secret(&key_path, key.serialize_pem().as_bytes())?;
            std::fs::write(&certificate_path, certificate)
                .map_err(|error| OpenError::write(&certificate_path, error))?;
        }
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|error| OpenError::read(path, error))
        };
        let certificate = read(&certificate_path)?;
        let key = KeyPair::from_pem(&read(&key_path)?)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)?;
        Ok(Self {
            certificate,
            issuer,
            now,
        })
    }

    /// The authority's certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A client certificate: the user's name is its common name, the groups
    /// its organizations.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn client(&self, user: &UserInfo) -> Result<Credential, OpenError> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, user.name.as_str());
        for group in &user.groups {
            if group != super::AUTHENTICATED {
                params
                    .distinguished_name
                    .push(DnType::OrganizationName, group.as_str());
            }
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    /// A server certificate for names and addresses.
    ///
    /// # Errors
    /// When a name is not ASCII or the certificate cannot be made.
    pub fn server(&self, common_name: &str, names: &[String]) -> Result<Credential, OpenError> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        for name in names {
            let name = match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into()?),
            };
            if !params.subject_alt_names.contains(&name) {
                params.subject_alt_names.push(name);
            }
        }
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        self.issue(params)
    }

    fn issue(&self, mut params: CertificateParams) -> Result<Credential, OpenError> {
        let key = KeyPair::generate()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        validity(&mut params, self.now, DAYS);
        Ok(Credential {
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }

    /// A kubeconfig that reaches a server as a user.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn kubeconfig(&self, server: &str, user: &UserInfo) -> Result<String, OpenError> {
        let credential = self.client(user)?;
        let encode = |text: &str| STANDARD.encode(text);
        // JSON is YAML.
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "dhow", "preferences": {},
            "clusters": [{"name": "dhow", "cluster": {"server": server,
                "certificate-authority-data": encode(&self.certificate)}}],
            "users": [{"name": user.name, "user": {
                "client-certificate-data": encode(&credential.certificate),
                "client-key-data": encode(&credential.key)}}],
            "contexts": [{"name": "dhow", "context": {"cluster": "dhow", "user": user.name}}],
        });
        serde_json::to_string_pretty(&config).map_err(|_| OpenError::Key("kubeconfig"))
    }
}

/// Names and addresses that the server's certificate is for.
pub(crate) fn server_names(config: &Config, service: IpAddr) -> Vec<String> {
    let mut names = config.names.clone();
    names.extend(
        [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ]
        .map(str::to_owned),
    );
    names.push(config.advertise.to_string());
    names.push(service.to_string());
    names
}

/// A PEM credential as rustls wants it.
pub(crate) fn to_rustls(
    credential: &Credential,
) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), OpenError> {
    use rustls_pki_types::pem::PemObject as _;
    let certificate = CertificateDer::from_pem_slice(credential.certificate.as_bytes())
        .map_err(|_| OpenError::Key("certificate is no PEM"))?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(credential.key.as_bytes())
        .map_err(|_| OpenError::Key("key is no PEM"))?;
    Ok((certificate, key.into()))
}

/// The user a verified client certificate names.
pub(crate) fn user_of(certificate: &CertificateDer<'_>) -> Option<UserInfo> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups: Vec<&str> = subject
        .iter_organization()
        .filter_map(|name| name.as_str().ok())
        .collect();
    Some(UserInfo::new(&name, &groups))
}
