//! `data`: files of rows on the server.

use chrono::Local;
use hone_client::{Client, v1};

use crate::args::DataCommand;
use crate::failure::Failure;
use crate::follow::Ending;
use crate::human::{ago, bytes, date, printable};
use crate::output::Output;
use crate::table::Table;
use crate::{locate, preview};

pub(crate) async fn run(command: DataCommand, client: &Client, out: &Output) -> Result<Ending, Failure> {
    match command {
        DataCommand::Upload { files, reuse } => {
            for file in files {
                let dataset = locate::dataset_at(&file, reuse, client, out).await?;
                out.show("Dataset", &dataset, || dataset.dataset_id.clone())?;
            }
        }
        DataCommand::List(page) => {
            let list = async |page_size, page_token| {
                let answer = client.list_datasets(v1::ListDatasetsRequest { page_size, page_token }).await?;
                Ok((answer.datasets, answer.next_page_token))
            };
            let datasets = page.all(list).await?;
            out.show_all("Dataset", &datasets, || table(&datasets).text("no datasets"))?;
        }
        DataCommand::Get { dataset } => {
            let dataset = client.get_dataset(&dataset).await?;
            out.show("Dataset", &dataset, || text(&dataset))?;
        }
        DataCommand::Delete { datasets } => {
            for dataset in datasets {
                client.delete_dataset(&dataset).await?;
                out.deleted(&dataset)?;
            }
        }
        DataCommand::Preview(args) => return preview::run(args, client, out).await,
    }
    Ok(Ending::Done)
}

fn table(datasets: &[v1::Dataset]) -> Table {
    let mut table = Table::new(&["DATASET", "FILE", "SIZE", "CREATED"], &[2]);
    let now = Local::now();
    for dataset in datasets {
        table.row([
            dataset.dataset_id.clone(),
            printable(&dataset.file_name),
            bytes(dataset.size_bytes),
            dataset.create_time.as_ref().map(|time| ago(time, now)).unwrap_or_default(),
        ]);
    }
    table
}

fn text(dataset: &v1::Dataset) -> String {
    format!(
        "{}  {}\nsize     {}\nSHA-256  {}\ncreated  {}\nat       {}",
        dataset.dataset_id,
        printable(&dataset.file_name),
        bytes(dataset.size_bytes),
        dataset.sha256,
        dataset.create_time.as_ref().map(date).unwrap_or_default(),
        printable(&dataset.uri),
    )
}
