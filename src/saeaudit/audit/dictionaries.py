"""Stage: train a dictionary at a site, then judge its fit on documents it has not seen."""

from saeaudit.audit.one_dictionary import StoreTraining
from saeaudit.audit.session import Session
from saeaudit.audit.train_store import Job, train_on_rows
from saeaudit.dictionaries import Kind
from saeaudit.findings import DictionaryRow


def dictionary_stage(session: Session, site: str, kind: Kind) -> DictionaryRow:
    """Train one dictionary unless it was trained before from the same inputs; return its row of the table."""
    inputs = session.identity("dictionary", site, kind, session.config.dictionary.model_dump())
    name = f"dictionary-{site}-{kind}"
    if not session.dictionary_path(site, kind).is_dir():
        session.stages.forget(name)
    return session.stages.run(name, inputs, DictionaryRow, lambda: _train(session, site, kind))


def _train(session: Session, site: str, kind: Kind) -> DictionaryRow:
    sizes = session.config.dictionary
    config = StoreTraining(
        site=site,
        kind=kind,
        side=session.side,
        expansion=sizes.expansion,
        k=sizes.k,
        n_samples=sizes.n_samples,
        batch_size=sizes.batch_size,
        lr=sizes.lr,
        seed=session.config.seed,
        order_seed=session.config.seed,
    )
    fit, held_out = session.data.dictionary_rows()
    cards = {"base": session.pair.base.card.as_dict(), "tuned": session.pair.tuned.card.as_dict()}
    job = Job(config, session.dictionary_path(site, kind))
    trained = train_on_rows(session.store(), {site: job}, fit, held_out, cards=cards, watcher=session.watcher)
    for error in trained.failed.values():
        raise error
    return trained.done[site]
