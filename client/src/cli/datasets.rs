//! `data`: files of rows on the server.

use chrono::Local;
use hone_client::{Client, v1};

use crate::args::{DataCommand, Page};
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
            let datasets = list(client, page).await?;
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

async fn list(client: &Client, page: Page) -> Result<Vec<v1::Dataset>, Failure> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let page_size = page.next_size(all.len());
        let answer = client.list_datasets(v1::ListDatasetsRequest { page_size, page_token }).await?;
        all.extend(answer.datasets);
        page_token = answer.next_page_token;
        if page.is_full(all.len()) || page_token.is_empty() {
            return Ok(all);
        }
    }
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
