import { type SubmitEvent, useState } from "react";

interface Props {
  onAdd: (name: string) => void;
}

export function AddItem({ onAdd }: Props) {
  const [name, setName] = useState("");

  function submit(event: SubmitEvent) {
    event.preventDefault();
    const trimmed = name.trim();
    if (!trimmed) return;
    onAdd(trimmed);
    setName("");
  }

  return (
    <form className="add" onSubmit={submit}>
      <input
        aria-label="Add something to pack"
        value={name}
        onChange={(event) => setName(event.target.value)}
        placeholder="Something else?"
        autoComplete="off"
        maxLength={80}
      />
      <button type="submit">Add</button>
    </form>
  );
}
