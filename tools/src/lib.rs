//! The `stele` program: it wires the libraries into processes, and has the operators' commands.
//!
//! [`cli`] reads the command line. [`serve`] starts a server on one machine from a data directory ([`data_dir`]): drives
//! ([`drives`]), the node, metadata, the engine, the S3 port and the [`admin`] port. [`admin_client`] is the other end of
//! the latter. [`offline`] has the commands that need the server to be stopped, [`process`] what is asked of the system first.
//! [`roles`] are the processes of a cluster, each with its [`config_file`] and a certificate that [`ca`] issued.

pub mod accounts;
pub mod admin;
mod admin_accounts;
pub mod admin_client;
mod admin_drives;
mod admin_iam;
mod admin_keep;
mod admin_kms;
mod admin_members;
mod admin_nodes;
mod admin_placement;
mod admin_quota;
mod admin_upgrade;
mod admin_webhooks;
pub mod ca;
pub mod cli;
pub mod config_file;
pub mod config_place;
pub mod data_dir;
pub mod drive_place;
pub mod drive_set;
pub mod drives;
pub mod fixity;
pub mod index_home;
pub mod keep_answers;
pub mod logging;
pub mod member_answers;
pub mod metrics;
pub mod node_drives;
pub mod notify;
pub mod object_map;
pub mod offline;
mod open_files;
pub mod passing;
mod port;
pub mod process;
pub mod progress;
pub mod replication;
pub mod rescue;
pub mod roles;
pub mod s3_port;
pub mod serve;
mod set_accounts;
