import type { Item } from "../items";

interface Props {
  item: Item;
  onToggle: () => void;
  onRemove: () => void;
}

export function ItemRow({ item, onToggle, onRemove }: Props) {
  return (
    <li className="item">
      <label>
        <input type="checkbox" checked={item.packed} onChange={onToggle} />
        <span>{item.name}</span>
      </label>
      <button type="button" className="remove" aria-label={`Remove ${item.name}`} onClick={onRemove}>
        <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
          <path d="m4 4 8 8m0-8-8 8" fill="none" stroke="currentColor" strokeWidth="1.75" strokeLinecap="round" />
        </svg>
      </button>
    </li>
  );
}
