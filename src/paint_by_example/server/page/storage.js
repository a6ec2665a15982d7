/** What survives a reload: pictures, runs and the document, in the browser's database. */

const NAME = "paint-by-example";
/** @typedef {"pictures" | "runs" | "session"} StoreName */

/** @type {Promise<IDBDatabase> | null} */
let opened = null;

/** @returns {Promise<IDBDatabase>} */
function database() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      for (const store of ["pictures", "runs", "session"]) request.result.createObjectStore(store, { keyPath: "id" });
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

/**
 * @template T
 * @param {StoreName} store
 * @param {IDBTransactionMode} mode
 * @param {(store: IDBObjectStore) => IDBRequest<T>} act
 * @returns {Promise<T>}
 */
async function transact(store, mode, act) {
  const base = await database();
  return new Promise((resolve, reject) => {
    const transaction = base.transaction(store, mode);
    const request = act(transaction.objectStore(store));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = () => reject(transaction.error);
    transaction.onabort = () => reject(transaction.error);
  });
}

/**
 * @param {StoreName} store
 * @param {{id: string, [name: string]: any}} value
 */
export function put(store, value) {
  return transact(store, "readwrite", (place) => place.put(value));
}

/**
 * @param {StoreName} store
 * @param {string} id
 * @returns {Promise<any>}
 */
export function take(store, id) {
  return transact(store, "readonly", (place) => place.get(id));
}

/**
 * @param {StoreName} store
 * @param {string} id
 * @returns {Promise<boolean>} whether there is such a thing
 */
export async function holds(store, id) {
  return (await transact(store, "readonly", (place) => place.getKey(id))) !== undefined;
}

/**
 * @param {StoreName} store
 * @returns {Promise<any[]>}
 */
export function all(store) {
  return transact(store, "readonly", (place) => place.getAll());
}

/**
 * @param {StoreName} store
 * @returns {Promise<string[]>}
 */
export async function ids(store) {
  return /** @type {Promise<string[]>} */ (transact(store, "readonly", (place) => place.getAllKeys()));
}

/**
 * @param {StoreName} store
 * @param {string} id
 */
export function drop(store, id) {
  return transact(store, "readwrite", (place) => place.delete(id));
}
