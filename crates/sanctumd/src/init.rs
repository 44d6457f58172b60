//! Makes a data directory with a usable default: a portal, a target with one thin image, CHAP with
//! secrets of chance. Never a default password.
//!
//! The settings come last: until they are there, a run that was cut off is simply run again, and
//! uses what it made. Once they are there, nothing is changed any more.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use api::view::SetupReport;
use api::{Code, Problem};
use ipnet::IpNet;
use settings::{Document, LoadError, Secrets, Store};
use target::config::{
    AccessRule, Action, Authentication, Backing, ChapAccount, Device, Lun, Portal, Provisioning,
    Target,
};
use target::provision;

use crate::admin;
use crate::cli::{Init, Role};
use crate::data_dir::DataDir;
use crate::peer::Caller;
use crate::{limits, trouble};

/// What a data directory may hold before it is one: what a run that was cut off leaves.
const OURS: [&str; 6] = ["lock", "settings", "secrets", "images", "devices", "events"];

/// How the address is named on the two command lines that end here.
const ADDRESS_FLAGS: &str = "`--address` of sanctum setup, `--portal` of sanctumd init";

/// The account that initiators log in with.
const USER: &str = "initiator";

/// The account that the target proves itself with.
const MUTUAL: &str = "target";

/// Makes the directory, or reports what there is.
///
/// # Errors
/// The directory is something else's, or in use; address, image or settings cannot be had.
pub(crate) fn init(wanted: &Init) -> Result<SetupReport, Problem> {
    if let Some(report) = found(wanted)? {
        return Ok(report);
    }
    only_ours(&wanted.data_dir)?;
    let dir = DataDir::make(&wanted.data_dir)?;
    let _lock = dir.lock()?;
    let store = Store::open(dir.path()).map_err(|error| trouble::internal(&error))?;
    match store.load() {
        Err(LoadError::Absent { .. }) => {}
        Err(error) => return Err(trouble::load(&error, dir.path())),
        // Another run was faster, between our look and our lock.
        Ok(loaded) => return Ok(report(&dir, &loaded.document, wanted.portal.port(), false)),
    }
    let mut secrets = Secrets::load(dir.path()).map_err(|error| trouble::secrets(&error))?;
    for name in [USER, MUTUAL] {
        if !secrets.contains(name) {
            secrets
                .generate(name)
                .map_err(|error| trouble::secrets(&error))?;
        }
    }
    let port = free_port(wanted.portal)?;
    let image = image(&dir, wanted.size)?;
    let document = document(wanted, port, image);
    let plan = store
        .propose(document.clone(), &|document| {
            admin::check_new(document, &dir, &|name| secrets.contains(name))
        })
        .map_err(|error| trouble::propose(&error))?;
    let who = Caller::this_user();
    store
        .commit(plan, &who, "set up")
        .map_err(|error| trouble::commit(&error))?;
    Ok(report(&dir, &document, wanted.portal.port(), true))
}

/// What is there already. Read without a lock, so that it works beside a running service.
fn found(wanted: &Init) -> Result<Option<SetupReport>, Problem> {
    // First: nothing is read where another user could have put it.
    let dir = match DataDir::open(&wanted.data_dir) {
        Ok(dir) => dir,
        Err(problem) if problem.code == Code::NotFound => return Ok(None),
        Err(problem) => return Err(problem),
    };
    let path = dir.path().join("settings/current.toml");
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(
                Problem::new(Code::Internal, format!("cannot read {}", path.display()))
                    .detail(error.to_string())
                    .next("run this as the service's user, or as root"),
            );
        }
    };
    let document = settings::parse(&text).map_err(|problems| {
        let mut problem = Problem::new(
            Code::InvalidSettings,
            format!("{} cannot be used", path.display()),
        )
        .next(format!(
            "see what can be restored: sanctumd run --data-dir {}",
            api::quoted(dir.path())
        ));
        problem.details = problems.to_string().lines().map(str::to_owned).collect();
        problem
    })?;
    Ok(Some(report(&dir, &document, wanted.portal.port(), false)))
}

/// Refuses a directory that holds something else: a home directory is no data directory.
fn only_ours(path: &Path) -> Result<(), Problem> {
    let Ok(entries) = path.read_dir() else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        // A file system of its own begins with one.
        if name == "lost+found" {
            continue;
        }
        if !OURS.iter().any(|ours| name == *ours) {
            return Err(Problem::new(
                Code::Refused,
                format!(
                    "{} holds {} and is no data directory of Sanctum",
                    path.display(),
                    Path::new(&name).display()
                ),
            )
            .next("name a new or an empty directory with --data-dir"));
        }
    }
    Ok(())
}

/// The port asked for, or the next one that nobody listens on.
fn free_port(wanted: SocketAddr) -> Result<u16, Problem> {
    let first = wanted.port();
    for port in first..=first.saturating_add(limits::PORTS_TRIED) {
        match TcpListener::bind((wanted.ip(), port)) {
            Ok(_) => return Ok(port),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => {
                return Err(Problem::new(
                    Code::Refused,
                    format!("this host cannot listen on {}:{port}", wanted.ip()),
                )
                .detail(error.to_string())
                .next(format!(
                    "name an address of this host and a port from 1024 on ({ADDRESS_FLAGS})"
                )));
            }
        }
    }
    Err(Problem::new(
        Code::Refused,
        format!(
            "the ports {first} to {} of {} are all taken",
            first.saturating_add(limits::PORTS_TRIED),
            wanted.ip()
        ),
    )
    .next(format!("name another port ({ADDRESS_FLAGS})")))
}

/// The first image and its size; one that a run that was cut off left is used as it is.
fn image(dir: &DataDir, size: u64) -> Result<(PathBuf, u64), Problem> {
    let path = dir.images()?.join("disk0.img");
    if path.exists() {
        let size = provision::image_size(&path).map_err(|error| trouble::provision(&error))?;
        return Ok((path, size));
    }
    provision::create_image(&path, size, Provisioning::Thin, &mut |_, _| true)
        .map_err(|error| trouble::provision(&error))?;
    Ok((path, size))
}

fn document(wanted: &Init, port: u16, (path, size): (PathBuf, u64)) -> Document {
    let host = host_label(
        rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .as_ref(),
    );
    let mut document = Document::default();
    let iscsi = &mut document.iscsi;
    iscsi.portals.push(Portal {
        name: "portal0".to_owned(),
        address: wanted.portal.ip(),
        port,
        interface: wanted.interface.clone(),
        group: 1,
        enabled: true,
    });
    iscsi.devices.push(Device::new(
        "disk0",
        Backing::Image {
            path,
            size,
            provisioning: Provisioning::Thin,
            block_size: target::limits::BLOCK_SIZE_DEFAULT,
            read_only: false,
        },
    ));
    for user in [USER, MUTUAL] {
        iscsi.accounts.push(ChapAccount {
            user: user.to_owned(),
            secret: user.to_owned(),
        });
    }
    iscsi.targets.push(Target {
        name: format!("iqn.2026-11.local.sanctum:{host}-{}", distinction()),
        alias: None,
        allow_multiple: true,
        portals: Vec::new(),
        authentication: Authentication {
            accounts: vec![USER.to_owned()],
            mutual: Some(MUTUAL.to_owned()),
            mutual_required: false,
            algorithms: Vec::new(),
        },
        luns: vec![Lun {
            number: 0,
            device: "disk0".to_owned(),
            read_only: false,
        }],
        access: own_networks(wanted.portal.ip())
            .into_iter()
            .map(rule)
            .collect(),
    });
    document.service.name = host;
    document.service.role = match wanted.role {
        Role::San => settings::Role::San,
    };
    document
}

fn rule(network: IpNet) -> AccessRule {
    AccessRule {
        initiator: "*".to_owned(),
        network: Some(network),
        portal: None,
        action: Action::Allow,
        luns: None,
        authentication: None,
    }
}

/// Where connections of this host itself come from: nobody else is let in until somebody says so.
fn own_networks(portal: IpAddr) -> Vec<IpNet> {
    let mut networks = Vec::new();
    if let Ok(loopback) = "127.0.0.0/8".parse() {
        networks.push(loopback);
    }
    if portal.is_ipv6() {
        networks.push(IpNet::from(IpAddr::from(std::net::Ipv6Addr::LOCALHOST)));
    }
    if !portal.is_loopback() && !portal.is_unspecified() {
        networks.push(IpNet::from(portal));
    }
    networks
}

/// The host's name as it can stand in an iSCSI name and a label.
fn host_label(nodename: &str) -> String {
    let first = nodename
        .split('.')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let label: String = first
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
        .take(40)
        .collect();
    let label = label.trim_matches('-');
    if label.is_empty() {
        "host".to_owned()
    } else {
        label.to_owned()
    }
}

/// Four hexadecimal digits that tell two directories on one host, or two hosts of one name, apart.
fn distinction() -> String {
    let mut bytes = [0; 2];
    // Uninitialized chance cannot happen for so few bytes; a host without any gets a fixed answer.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    format!("{:04x}", u16::from_be_bytes(bytes))
}

fn report(dir: &DataDir, document: &Document, wanted_port: u16, created: bool) -> SetupReport {
    let iscsi = &document.iscsi;
    let portal = iscsi.portals.first().map(Portal::socket_address);
    let target = iscsi.targets.first().map(|target| target.name.clone());
    let mut notes = Vec::new();
    if let Some(portal) = portal
        && portal.port() != wanted_port
    {
        notes.push(format!(
            "port {wanted_port} was taken; the portal is on {}",
            portal.port()
        ));
    }
    if let (Some(portal), Some(target)) = (portal, &target)
        && !portal.ip().is_loopback()
    {
        notes.push(format!(
            "only this host may log in yet; to let others in: sanctum access add {target} allow \
             --network NETWORK"
        ));
    }
    SetupReport {
        created,
        data_dir: dir.path().to_owned(),
        portal,
        target,
        user: iscsi.accounts.first().map(|account| account.user.clone()),
        secrets_file: dir.path().join("secrets/secrets.toml"),
        socket: dir.socket(),
        notes,
    }
}

/// The report as lines.
pub(crate) fn show(report: &SetupReport) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| text.push_str(&format!("{name}={value}\n"));
    line("data_dir", report.data_dir.display().to_string());
    if let Some(portal) = report.portal {
        line("portal", portal.to_string());
    }
    if let Some(target) = &report.target {
        line("target", target.clone());
    }
    if let Some(user) = &report.user {
        line("chap_user", user.clone());
    }
    line("secrets", report.secrets_file.display().to_string());
    line("socket", report.socket.display().to_string());
    for note in &report.notes {
        line("note", note.clone());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn wanted(dir: &Path, port: u16) -> Init {
        use clap::Parser;
        #[derive(Parser)]
        struct Only {
            #[command(flatten)]
            init: Init,
        }
        let portal = format!("127.0.0.1:{port}");
        let dir = dir.display().to_string();
        Only::parse_from([
            "x",
            "--data-dir",
            &dir,
            "--portal",
            &portal,
            "--size",
            "1048576",
        ])
        .init
    }

    #[test]
    fn made_once_and_then_left_alone() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("data");
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let first = init(&wanted(&path, port)).unwrap();
        assert!(first.created);
        assert_ne!(first.portal.unwrap().port(), port);
        assert!(first.notes[0].contains("was taken"));
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o700);
        assert_eq!(
            first.secrets_file.metadata().unwrap().mode() & 0o7777,
            0o600
        );
        let secrets = Secrets::load(&path).unwrap();
        let lengths: Vec<_> = secrets
            .iter()
            .map(|(_, secret)| secrecy::ExposeSecret::expose_secret(secret).len())
            .collect();
        assert_eq!(lengths, [16, 16]);
        let before = std::fs::read(path.join("settings/current.toml")).unwrap();
        let second = init(&wanted(&path, port)).unwrap();
        assert!(!second.created);
        assert_eq!(
            SetupReport {
                created: true,
                ..second
            },
            first
        );
        assert_eq!(
            std::fs::read(path.join("settings/current.toml")).unwrap(),
            before
        );
    }

    #[test]
    fn a_run_that_was_cut_off_is_finished() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::make(&temporary.path().join("data")).unwrap();
        let image = dir.images().unwrap().join("disk0.img");
        std::fs::write(&image, vec![7; 4096]).unwrap();
        init(&wanted(dir.path(), 0)).unwrap_err();
        let report = init(&wanted(
            dir.path(),
            free_port(([127, 0, 0, 1], 20000).into()).unwrap(),
        ))
        .unwrap();
        assert!(report.created);
        assert_eq!(std::fs::read(&image).unwrap(), vec![7; 4096]);
    }

    #[test]
    fn a_directory_of_something_else_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        std::fs::write(temporary.path().join("thesis.tex"), "").unwrap();
        let problem = init(&wanted(temporary.path(), 3260)).unwrap_err();
        assert_eq!(problem.code, Code::Refused);
        assert!(problem.what.contains("thesis.tex"));
        assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 1);
    }

    #[test]
    fn nothing_is_read_where_others_may_write() {
        use std::os::unix::fs::PermissionsExt;
        let temporary = tempfile::tempdir().unwrap();
        let settings = temporary.path().join("settings");
        std::fs::create_dir(&settings).unwrap();
        std::fs::write(settings.join("current.toml"), "planted").unwrap();
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(&settings, open).unwrap();
        let problem = init(&wanted(temporary.path(), 3260)).unwrap_err();
        assert_eq!(problem.code, Code::Refused);
        assert!(problem.what.contains("0777"), "{}", problem.what);
    }

    #[test]
    fn a_fresh_file_system_is_taken() {
        let temporary = tempfile::tempdir().unwrap();
        std::fs::create_dir(temporary.path().join("lost+found")).unwrap();
        only_ours(temporary.path()).unwrap();
    }

    #[test]
    fn host_names_become_labels() {
        assert_eq!(host_label("San-1.example.com"), "san-1");
        assert_eq!(host_label("ÄÖ"), "host");
        assert_eq!(host_label("-a_b-"), "ab");
    }
}
