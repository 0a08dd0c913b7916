//! One holder among replicas. A lease runs out by the database's clock, so replicas need not agree on the time.

use std::time::Duration;

use sqlx::Row;

use super::db::{Db, query};
use crate::error::Result;

/// Takes or keeps the lease `name` for `holder`. The number it gives counts the holders: a write that carries it is refused
/// once somebody else has held the lease. None: another holds it.
pub async fn hold(db: &Db, name: &str, holder: &str, life: Duration) -> Result<Option<i64>> {
    let life = i64::try_from(life.as_millis()).unwrap_or(i64::MAX);
    db.write(|mut tx| async move {
        let now = tx.engine().now();
        let text = format!(
            "insert into lease (name, holder, fence, until) values ($1, $2, 1, {now} + $3) \
             on conflict (name) do update set holder = excluded.holder, until = excluded.until, \
             fence = lease.fence + case when lease.holder = excluded.holder then 0 else 1 end \
             where lease.holder = excluded.holder or lease.until < {now} returning fence"
        );
        let row = query(text).bind(name).bind(holder).bind(life).fetch_optional(&mut *tx).await?;
        tx.done(row.map(|r| r.try_get(0)).transpose()?)
    })
    .await
}

/// Lets every lease of a holder go, so that another may take them at once.
pub async fn release(db: &Db, holder: &str) -> Result<()> {
    db.write(|mut tx| async move {
        sqlx::query("update lease set until = 0 where holder = $1").bind(holder).execute(&mut *tx).await?;
        tx.done(())
    })
    .await
}
