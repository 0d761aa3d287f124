import { AddItem } from "./components/AddItem";
import { Bag } from "./components/Bag";
import { ItemRow } from "./components/ItemRow";
import { changed, FIRST_ITEMS, isItems, summary } from "./items";
import { useStored } from "./useStored";

export function App() {
  const [items, dispatch] = useStored("weekend-bag", changed, FIRST_ITEMS, isItems);
  const packed = items.filter((item) => item.packed).length;

  return (
    <>
      <header>
        <p className="site">Weekend bag</p>
      </header>

      <main>
        <div className="intro">
          <Bag full={items.length ? packed / items.length : 0} />
          <h1>Pack once, leave calm.</h1>
          <p className="lede" role="status">
            {summary(items)}
          </p>
          {packed > 0 && (
            <button type="button" className="quiet" onClick={() => dispatch({ type: "unpacked" })}>
              Unpack everything
            </button>
          )}
        </div>

        <section className="sheet" aria-label="Packing list">
          <ul>
            {items.map((item) => (
              <ItemRow
                key={item.id}
                item={item}
                onToggle={() => dispatch({ type: "toggled", id: item.id })}
                onRemove={() => dispatch({ type: "removed", id: item.id })}
              />
            ))}
          </ul>
          <AddItem onAdd={(name) => dispatch({ type: "added", id: newId(), name })} />
        </section>
      </main>

      <footer>
        <p>
          Edit <code>src/App.tsx</code> and save: the page follows, your ticks stay.
        </p>
        <p>
          <a href="https://react.dev/learn">React guide</a>
        </p>
      </footer>
    </>
  );
}

/** Unique in this list. `crypto.randomUUID` would be, too, but pages on plain http lack it. */
function newId(): string {
  return `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;
}
