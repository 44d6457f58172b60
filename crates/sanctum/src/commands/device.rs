//! `sanctum device`: what backs LUNs.

use std::path::{Path, PathBuf};

use api::config::{Backing, CacheMode, Provisioning};
use api::request::{DeviceChange, DeviceRemoval, NewBacking, NewDevice, NewImage};
use api::view::{DeviceInfo, DeviceState, DeviceView};
use clap::builder::RangedI64ValueParser;
use clap::{ArgAction, Args, Subcommand, ValueEnum};

use crate::cli::Context;
use crate::commands::yes_no;
use crate::failure::Failure;
use crate::{limits, progress, size};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists devices
    List,
    /// Shows a device with its identity and reservations
    Show {
        /// Name
        name: String,
    },
    /// Adds a device
    #[command(subcommand)]
    Create(Box<Create>),
    /// Makes a device larger; initiators are told
    Grow {
        /// Name
        name: String,
        /// New size, or with a leading `+` how much more: 20G, +5G
        #[arg(value_parser = growth)]
        size: Growth,
    },
    /// Sets the cache mode
    Cache {
        /// Name
        name: String,
        /// The mode
        mode: Mode,
    },
    /// Sets how many operations run at once
    Queue {
        /// Name
        name: String,
        /// Operations at once, 1 to 1024
        #[arg(long, value_name = "N", value_parser = depth())]
        queue_depth: Option<u16>,
        /// Several at once (true) or one (false)
        #[arg(long, value_name = "BOOL")]
        asynchronous: Option<bool>,
    },
    /// Changes what initiators are told of a device
    Update {
        /// Name
        name: String,
        /// The medium can be ejected (true) or not (false)
        #[arg(long, value_name = "BOOL")]
        removable: Option<bool>,
        /// Tells of physical blocks larger than the logical ones (true) or hides them (false)
        #[arg(long, value_name = "BOOL")]
        physical_blocks: Option<bool>,
    },
    /// Loads the medium of a removable device, retries one that failed, accepts an empty RAM disk,
    /// or takes over the size of a physical disk that has grown
    Load {
        /// Name
        name: String,
    },
    /// Ejects the medium of a removable device
    Eject {
        /// Name
        name: String,
    },
    /// Removes every registration and reservation, as if all initiators had given them up
    ClearReservations {
        /// Name
        name: String,
    },
    /// Removes a device from the settings; its file stays
    Delete {
        /// Name
        name: String,
        /// Removes the image file as well
        #[arg(long)]
        delete_file: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Create {
    /// An image file
    Image(Image),
    /// A physical disk, partition or volume
    Block {
        /// Name
        name: String,
        /// The device node; one under /dev/disk/by-id survives a reboot
        #[arg(long)]
        path: PathBuf,
        /// Logical block size in bytes (default: the disk's own)
        #[arg(long, value_parser = block_size)]
        block_size: Option<u32>,
        /// Refuses writes (true) or takes them (false)
        #[arg(long, value_name = "BOOL", default_value_t = false, action = ArgAction::Set)]
        read_only: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Memory; contents end with the service
    Ram {
        /// Name
        name: String,
        /// Size, such as 512M
        #[arg(long, value_parser = size::parse)]
        size: u64,
        #[arg(long, value_parser = block_size, help = block_size_help())]
        block_size: Option<u32>,
        #[command(flatten)]
        common: Common,
    },
    /// An ISO image, as an optical drive
    Iso {
        /// Name
        name: String,
        /// The file
        #[arg(long)]
        path: PathBuf,
    },
}

/// An image file.
#[derive(Args, Debug)]
pub(crate) struct Image {
    /// Name
    name: String,
    /// Size, such as 10G; with --existing the file's own unless given
    #[arg(long, value_parser = size::parse, required_unless_present = "existing")]
    size: Option<u64>,
    /// The file (default: NAME.img in the service's image directory)
    #[arg(long)]
    path: Option<PathBuf>,
    /// When its space is reserved (default: thin)
    #[arg(long, value_enum, conflicts_with = "existing")]
    provisioning: Option<Space>,
    /// The file is there already and keeps its contents
    #[arg(long, requires = "path")]
    existing: bool,
    #[arg(long, value_parser = block_size, help = block_size_help())]
    block_size: Option<u32>,
    /// Refuses writes (true) or takes them (false)
    #[arg(long, value_name = "BOOL", default_value_t = false, action = ArgAction::Set)]
    read_only: bool,
    #[command(flatten)]
    common: Common,
}

/// What every device has. What is not given is the service's to choose; its choice is told here.
#[derive(Args, Debug)]
pub(crate) struct Common {
    /// Cache mode (default: none)
    #[arg(long, value_enum)]
    cache: Option<Mode>,
    /// The medium can be ejected (true) or not (default: false)
    #[arg(long, value_name = "BOOL")]
    removable: Option<bool>,
    /// Several operations at once or (false) one (default: true)
    #[arg(long, value_name = "BOOL")]
    asynchronous: Option<bool>,
    #[arg(long, value_name = "N", value_parser = depth(), help = depth_help())]
    queue_depth: Option<u16>,
    /// Tells of physical blocks larger than the logical ones or (false) hides them (default: true)
    #[arg(long, value_name = "BOOL")]
    physical_blocks: Option<bool>,
}

/// Cache modes by the names of the settings.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Mode {
    /// Direct I/O
    None,
    /// Reads cached; a write is stable before it is answered
    WriteThrough,
    /// A write may be answered from memory that outlives the service, not the host
    WriteBack,
}

/// How an image gets its space, by the names of the settings.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Space {
    /// As it is written
    Thin,
    /// All of it now
    Preallocated,
}

impl From<Space> for Provisioning {
    fn from(space: Space) -> Self {
        match space {
            Space::Thin => Self::Thin,
            Space::Preallocated => Self::Preallocated,
        }
    }
}

impl From<Mode> for CacheMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::None => Self::None,
            Mode::WriteThrough => Self::WriteThrough,
            Mode::WriteBack => Self::WriteBack,
        }
    }
}

/// A new size.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Growth {
    To(u64),
    By(u64),
}

fn growth(text: &str) -> Result<Growth, String> {
    match text.strip_prefix('+') {
        Some(more) => size::parse(more).map(Growth::By),
        None => size::parse(text).map(Growth::To),
    }
}

fn depth() -> RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(limits::DEPTH)
}

fn depth_help() -> String {
    let usual = api::limits::QUEUE_DEPTH_DEFAULT;
    format!("Operations at once, 1 to 1024 (default: {usual})")
}

fn block_size_help() -> String {
    let usual = api::limits::BLOCK_SIZE_DEFAULT;
    format!("Logical block size in bytes, 512 or 4096 (default: {usual})")
}

fn block_size(text: &str) -> Result<u32, String> {
    match text {
        "512" => Ok(512),
        "4096" | "4K" | "4k" => Ok(4096),
        _ => Err("512 or 4096".to_owned()),
    }
}

impl Command {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let client = &context.client;
        match self {
            Self::List => list(context).await,
            Self::Show { name } => show(context, &client.device(&name).await?),
            Self::Create(create) => add(context, create.into_device()?).await,
            Self::Grow { name, size } => grow(context, &name, size).await,
            Self::Cache { name, mode } => {
                let to = DeviceChange {
                    cache: Some(mode.into()),
                    ..DeviceChange::default()
                };
                change(context, &name, &to).await
            }
            Self::Queue {
                name,
                queue_depth,
                asynchronous,
            } => {
                let to = DeviceChange {
                    queue_depth,
                    asynchronous,
                    ..DeviceChange::default()
                };
                change(context, &name, &to).await
            }
            Self::Update {
                name,
                removable,
                physical_blocks,
            } => {
                let to = DeviceChange {
                    removable,
                    physical_blocks,
                    ..DeviceChange::default()
                };
                change(context, &name, &to).await
            }
            Self::Load { name } => {
                client.load_device(&name).await?;
                context.output.done(&(), &format!("device {name} loaded"))
            }
            Self::Eject { name } => {
                client.eject_device(&name).await?;
                context.output.done(&(), &format!("device {name} ejected"))
            }
            Self::ClearReservations { name } => {
                client.clear_reservations(&name).await?;
                context
                    .output
                    .done(&(), &format!("reservations of device {name} cleared"))
            }
            Self::Delete { name, delete_file } => {
                let applied = client
                    .remove_device(&name, DeviceRemoval { delete_file })
                    .await?;
                let file = if delete_file {
                    ", its file too"
                } else {
                    "; its file stays"
                };
                context
                    .output
                    .done(&applied, &format!("device {name} removed{file}"))
            }
        }
    }
}

impl Create {
    fn into_device(self) -> Result<NewDevice, Failure> {
        match self {
            Self::Image(image) => image.into_device(),
            Self::Block {
                name,
                path,
                block_size,
                read_only,
                common,
            } => {
                let path = absolute(&path)?;
                let block = NewBacking::Block {
                    path,
                    block_size,
                    read_only,
                };
                Ok(common.device(name, block))
            }
            Self::Ram {
                name,
                size,
                block_size,
                common,
            } => Ok(common.device(name, NewBacking::Ram { size, block_size })),
            Self::Iso { name, path } => {
                let path = absolute(&path)?;
                Ok(NewDevice {
                    name,
                    backing: NewBacking::Iso { path },
                    cache: None,
                    removable: Some(true),
                    asynchronous: None,
                    queue_depth: None,
                    physical_blocks: None,
                })
            }
        }
    }
}

impl Image {
    fn into_device(self) -> Result<NewDevice, Failure> {
        let image = NewImage {
            path: self.path.as_deref().map(absolute).transpose()?,
            size: self.size,
            existing: self.existing,
            provisioning: self
                .provisioning
                .map(Provisioning::from)
                .unwrap_or_default(),
            block_size: self.block_size,
            read_only: self.read_only,
        };
        Ok(self.common.device(self.name, NewBacking::Image(image)))
    }
}

impl Common {
    fn device(self, name: String, backing: NewBacking) -> NewDevice {
        NewDevice {
            name,
            backing,
            cache: self.cache.map(CacheMode::from),
            removable: self.removable,
            asynchronous: self.asynchronous,
            queue_depth: self.queue_depth,
            physical_blocks: self.physical_blocks,
        }
    }
}

/// The service runs elsewhere in the file system, so it is told whole paths.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::local(format!("path {}", path.display()), &error))
}

async fn add(context: &Context, device: NewDevice) -> Result<(), Failure> {
    let task = context.client.add_device(&device).await?;
    let task = progress::follow(&context.client, task).await?;
    context
        .output
        .done(&task, &format!("device {} added", device.name))
}

async fn change(context: &Context, name: &str, to: &DeviceChange) -> Result<(), Failure> {
    if *to == DeviceChange::default() {
        return Err(Failure::usage(
            "nothing to change",
            "name what is to change; see --help",
        ));
    }
    let applied = context.client.change_device(name, to).await?;
    context
        .output
        .done(&applied, &format!("device {name} changed"))
}

async fn grow(context: &Context, name: &str, growth: Growth) -> Result<(), Failure> {
    let size = match growth {
        Growth::To(size) => size,
        Growth::By(more) => {
            let device = context.client.device(name).await?.device;
            let size = configured_size(&device.backing).ok_or_else(|| {
                Failure::usage(
                    format!("device {name} has no size in the settings"),
                    "give the whole new size",
                )
            })?;
            size.checked_add(more)
                .ok_or_else(|| Failure::usage("that is too large", "give less"))?
        }
    };
    let to = DeviceChange {
        size: Some(size),
        ..DeviceChange::default()
    };
    let applied = context.client.change_device(name, &to).await?;
    context.output.done(
        &applied,
        &format!("device {name} has {} now", size::show(size)),
    )
}

fn configured_size(backing: &Backing) -> Option<u64> {
    match backing {
        Backing::Image { size, .. } | Backing::Ram { size, .. } => Some(*size),
        Backing::Block { .. } | Backing::Iso { .. } => None,
    }
}

fn kind(backing: &Backing) -> &'static str {
    match backing {
        Backing::Image {
            provisioning: Provisioning::Thin,
            ..
        } => "image (thin)",
        Backing::Image { .. } => "image",
        Backing::Block { .. } => "block",
        Backing::Ram { .. } => "ram",
        Backing::Iso { .. } => "iso",
    }
}

fn state(view: &DeviceView) -> String {
    match view.live.as_ref().map(|live| &live.state) {
        Some(DeviceState::Ready) => "ready".to_owned(),
        Some(DeviceState::NotReady { reason }) => format!("not ready: {reason}"),
        Some(DeviceState::Empty) => "empty: its contents ended with an earlier start".to_owned(),
        Some(DeviceState::Ejected) => "ejected".to_owned(),
        None => "unknown".to_owned(),
    }
}

fn bytes(view: &DeviceView) -> String {
    let live = view
        .live
        .as_ref()
        .map(|live| live.size)
        .filter(|size| *size > 0);
    live.or_else(|| configured_size(&view.device.backing))
        .map(size::show)
        .unwrap_or_default()
}

async fn list(context: &Context) -> Result<(), Failure> {
    let devices = context.client.devices().await?;
    let rows = devices
        .iter()
        .map(|view| {
            let lun = view
                .lun
                .as_ref()
                .map(|lun| format!("{} LUN {}", lun.target, lun.number));
            vec![
                view.device.name.clone(),
                kind(&view.device.backing).to_owned(),
                bytes(view),
                view.device.cache.to_string(),
                lun.unwrap_or_default(),
                state(view),
            ]
        })
        .collect();
    context.output.list(
        &devices,
        &["name", "kind", "size", "cache", "exposed as", "state"],
        rows,
    )
}

fn show(context: &Context, view: &DeviceView) -> Result<(), Failure> {
    let device = &view.device;
    let queue = if device.asynchronous {
        format!("{} at once", device.queue_depth)
    } else {
        "one at a time".to_owned()
    };
    let path = device.backing.path().map(|path| path.display().to_string());
    let mut fields = vec![
        ("name", device.name.clone()),
        ("kind", kind(&device.backing).to_owned()),
        ("state", state(view)),
        ("path", path.unwrap_or_default()),
        ("size", bytes(view)),
        ("cache", device.cache.to_string()),
        ("queue", queue),
        ("removable", yes_no(device.removable)),
        ("physical blocks", told(device.physical_blocks)),
    ];
    if let Some(lun) = &view.lun {
        fields.push(("exposed as", format!("{} LUN {}", lun.target, lun.number)));
    }
    if let Some(live) = &view.live {
        fields.extend(live_fields(live));
        if !live.notes.is_empty() {
            fields.push(("note", live.notes.join("\n")));
        }
    }
    context.output.one(view, fields)
}

fn told(physical_blocks: bool) -> String {
    let told = if physical_blocks {
        "told as they are"
    } else {
        "hidden"
    };
    told.to_owned()
}

fn live_fields(live: &DeviceInfo) -> Vec<(&'static str, String)> {
    let counters = &live.counters;
    let held = &live.reservations;
    let none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    let work = |count: u64, bytes: u64| format!("{count}, {}", size::show(bytes));
    let mut registered: Vec<String> = held
        .registrations
        .iter()
        .map(|(initiator, isid, group)| format!("{initiator} (isid {isid}, portal group {group})"))
        .collect();
    if registered.is_empty() {
        registered.push("nobody".to_owned());
    }
    vec![
        ("block size", live.block_size.to_string()),
        ("serial", live.serial.clone()),
        ("naa", live.naa.clone()),
        ("reads", work(counters.reads, counters.bytes_read)),
        ("writes", work(counters.writes, counters.bytes_written)),
        ("errors", counters.errors.to_string()),
        ("reservation", none(&held.kind)),
        ("held by", none(&held.holder)),
        ("registered", registered.join("\n")),
    ]
}

#[cfg(test)]
mod tests {
    use api::config::Device;
    use clap::FromArgMatches;

    use super::*;

    #[test]
    fn growth_to_and_by() {
        assert_eq!(growth("20G"), Ok(Growth::To(20 << 30)));
        assert_eq!(growth("+5G"), Ok(Growth::By(5 << 30)));
        assert!(growth("-5G").is_err());
        assert!(growth("++5G").is_err());
    }

    #[test]
    fn the_help_tells_what_the_service_chooses() {
        let path = "a".into();
        let usual = Device::new("a", Backing::Iso { path });
        let told = [
            ("cache", usual.cache.to_string()),
            ("removable", usual.removable.to_string()),
            ("asynchronous", usual.asynchronous.to_string()),
            ("queue_depth", usual.queue_depth.to_string()),
            ("physical_blocks", usual.physical_blocks.to_string()),
            ("provisioning", Provisioning::default().to_string()),
            ("block_size", api::limits::BLOCK_SIZE_DEFAULT.to_string()),
        ];
        let command = Create::augment_subcommands(clap::Command::new("create"));
        let image = command.find_subcommand("image").unwrap();
        for (name, default) in told {
            let mut arguments = image.get_arguments();
            let argument = arguments.find(|argument| argument.get_id() == name);
            let help = argument.and_then(clap::Arg::get_help).unwrap().to_string();
            assert!(
                help.ends_with(&format!("(default: {default})")),
                "{name}: {help}"
            );
        }
    }

    #[test]
    fn what_is_not_given_is_not_sent() {
        let line = ["create", "ram", "a", "--size", "1M"];
        let command = Create::augment_subcommands(clap::Command::new("create"));
        let matches = command.get_matches_from(line);
        let create = Create::from_arg_matches(&matches).unwrap();
        let new = serde_json::to_value(create.into_device().unwrap()).unwrap();
        let backing = serde_json::json!({"kind": "ram", "size": 1 << 20});
        assert_eq!(new, serde_json::json!({"name": "a", "backing": backing}));
    }

    #[test]
    fn an_iso_is_removable_and_paths_are_whole() {
        let new = Create::Iso {
            name: "cd".to_owned(),
            path: "cd.iso".into(),
        }
        .into_device()
        .unwrap();
        assert_eq!(new.removable, Some(true));
        assert!(matches!(new.backing, NewBacking::Iso { path } if path.is_absolute()));
    }
}
